#include "session.hpp"

#include <random>
#include <utility>

namespace sim_stream {

std::string new_key() {
  std::random_device source;
  std::string key;
  for (int i = 0; i < 32; ++i) {
    key += "0123456789abcdef"[source() % 16];
  }
  return key;
}

Session::Impl::Impl(std::shared_ptr<Connection> its_connection,
                    std::shared_ptr<const ServerInfo> its_info, std::string its_sid, Frame frame,
                    std::int64_t committed_step)
    : connection(std::move(its_connection)),
      info(std::move(its_info)),
      sid(std::move(its_sid)),
      first(frame),
      latest(std::move(frame)),
      next_step(committed_step + 1) {}

Session::Impl::~Impl() {
  if (!closed) {
    connection->send_unanswered(wire::Close{sid});
  }
}

template <typename Call>
auto Session::Impl::guarded(Call&& call) -> decltype(call()) {
  try {
    return call();
  } catch (const RemoteError& error) {
    closed = closed || error.code() == "NO_SESSION" || error.code() == "SHUTTING_DOWN";
    throw;
  }
}

std::int64_t Session::Impl::send_step(const std::optional<Action>& action,
                                      const StepOptions& options) {
  if (static_cast<std::int64_t>(in_flight.size()) >= info->limits.max_in_flight) {
    throw InvalidInput("send_step: got " + std::to_string(in_flight.size()) +
                       " in flight; allowed: " + std::to_string(info->limits.max_in_flight));
  }
  check_action(action, *info);
  if (options.deadline_ms.value_or(0) < 0) {
    throw InvalidInput("deadline_ms: got " + std::to_string(*options.deadline_ms) +
                       "; allowed: 0 or more");
  }
  const wire::Step message{sid, next_step, action, options.sim_time_us, options.deadline_ms};
  const auto at = Clock::now();
  const auto rid = guarded([&] { return connection->send(message); });
  in_flight.push_back({message, rid, at});
  return next_step++;
}

Frame Session::Impl::receive() {
  if (in_flight.empty()) {
    throw InvalidInput("receive: got no step in flight; allowed: after send_step");
  }
  Received received;
  try {
    received = guarded([&] { return receive_front(); });
  } catch (const ConnectionLost&) {
    throw;  // the step stays in flight
  } catch (const RemoteError& error) {
    in_flight.pop_front();
    settle(error.committed_step());
    throw;
  }
  const auto at = in_flight.front().at;
  in_flight.pop_front();
  const auto& reply = expect<wire::FrameReply>(received, "frame");
  const FrameInfo frame = reply.frame;
  const std::int64_t committed_step = reply.committed_step;
  settle(committed_step);
  latest = make_frame(std::move(received), frame, committed_step, at);
  return latest;
}

// The reply to the oldest step, which is sent again when it was lost with its connection: the
// server takes a step once and answers it as often as it is asked.
Received Session::Impl::receive_front() {
  Sent& sent = in_flight.front();
  for (unsigned left = connection->resends();; --left) {
    try {
      if (!connection->expects(sent.rid)) {
        sent.rid = connection->send(sent.message);
      }
      return connection->wait(sent.rid);
    } catch (const ConnectionLost&) {
      if (left == 0) {
        throw;
      }
    }
  }
}

// After a refusal the next step is the server's next; those in flight fail likewise.
void Session::Impl::settle(std::int64_t committed_step) {
  if (in_flight.empty() && committed_step >= 0) {
    next_step = committed_step + 1;
  }
}

Frame Session::Impl::reset(const std::vector<Image>& frames, const StartOptions& options) {
  const OutgoingArray array = frames_array(frames, *info);
  check_start(options, frames.size(), *info);
  forget_steps();
  const auto at = Clock::now();
  Received received = guarded(
      [&] { return connection->wait(connection->send(wire::Reset{options, sid}, &array)); });
  const auto& reply = expect<wire::FrameReply>(received, "frame");
  const FrameInfo frame = reply.frame;
  const std::int64_t committed_step = reply.committed_step;
  first = latest = make_frame(std::move(received), frame, committed_step, at);
  next_step = committed_step + 1;
  return first;
}

std::unique_ptr<Session::Impl> Session::Impl::fork() {
  Received received =
      guarded([&] { return connection->ask(wire::Fork{sid, new_key()}); });
  const auto& opened = expect<wire::Opened>(received, "opened");
  return std::make_unique<Impl>(connection, info, opened.sid, latest, opened.committed_step);
}

std::optional<Frame> Session::Impl::close() {
  if (closed) {
    return last;
  }
  closed = true;
  forget_steps();
  const auto at = Clock::now();
  Received received = connection->ask(wire::Close{sid});
  const auto& reply = expect<wire::Closed>(received, "closed");
  if (const auto frame = reply.frame) {
    last = make_frame(std::move(received), *frame, reply.committed_step, at);
  }
  return last;
}

void Session::Impl::forget_steps() {
  for (const Sent& sent : in_flight) {
    connection->forget(sent.rid);
  }
  in_flight.clear();
}

void Session::Impl::require_none_in_flight(const char* call) const {
  if (!in_flight.empty()) {
    throw InvalidInput(std::string(call) + ": got " + std::to_string(in_flight.size()) +
                       " steps in flight; allowed: none, receive() first");
  }
}

}  // namespace sim_stream
