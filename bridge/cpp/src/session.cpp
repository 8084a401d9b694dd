#include "session.hpp"

#include <algorithm>
#include <limits>
#include <random>
#include <thread>
#include <utility>

namespace sim_stream {

// A realtime session's steps are answered soon; more without an answer is a server gone.
constexpr std::int64_t kUnanswered = 64;
// How long one attempt to greet a server that may be coming up takes.
constexpr std::chrono::milliseconds kHello{1000};
// Steps that are remembered for a server that is restarted, however many it asks for.
constexpr std::int64_t kRemembered = 65'536;
// Between two questions whether a session has come back.
constexpr std::chrono::milliseconds kPause{100};

// The next step, of any number that a server may name.
constexpr std::int64_t after(std::int64_t step) {
  return step == std::numeric_limits<std::int64_t>::max() ? step : step + 1;
}

std::string new_key() {
  std::random_device source;
  std::string key;
  for (int i = 0; i < 32; ++i) {
    key += "0123456789abcdef"[source() % 16];
  }
  return key;
}

Session::Impl::Impl(std::shared_ptr<Connection> its_connection,
                    std::shared_ptr<const ServerInfo> its_info, const wire::Opened& opened,
                    Chunk chunk, bool in_realtime)
    : connection(std::move(its_connection)),
      info(std::move(its_info)),
      sid(opened.sid),
      seed(opened.seed),
      first(chunk),
      prompt_psnr_db(opened.prompt_psnr_db),
      latest(std::move(chunk)),
      next_step(after(opened.committed_step)),
      realtime(in_realtime),
      token_(connection->options().resume.count() > 0 ? opened.resume_token : ""),
      epoch_(info->server_epoch),
      log_since_(opened.committed_step) {}

Session::Impl::~Impl() {
  if (!closed) {
    connection->send_unanswered(wire::Close{sid});
  }
}

std::int64_t Session::Impl::send_step(const Inputs& inputs, const StepOptions& options) {
  shed();
  const std::int64_t most = realtime ? kUnanswered : info->limits.max_in_flight;
  if (static_cast<std::int64_t>(in_flight.size()) >= most) {
    throw InvalidInput("send_step: got " + std::to_string(in_flight.size()) +
                       " in flight; allowed: " + std::to_string(most));
  }
  PackedStep packed = pack_step(inputs, info->spec);
  if (options.deadline_ms.value_or(0) < 0) {
    throw InvalidInput("deadline_ms: got " + std::to_string(*options.deadline_ms) +
                       "; allowed: 0 or more");
  }
  Taken step{{sid, next_step, std::move(packed.inputs), options.sim_time_us, options.deadline_ms},
             std::move(packed.arrays)};
  const auto at = Clock::now();
  const auto rid = surviving([&] { return connection->send(step.message, step.arrays); });
  in_flight.push_back({std::move(step), rid, at, false});
  return std::exchange(next_step, after(next_step));
}

// In realtime the newest step is always taken.
Chunk Session::Impl::receive() {
  while (true) {
    try {
      return receive_one();
    } catch (const RemoteError& error) {
      if (error.code() != "DROPPED" || in_flight.empty()) {
        throw;
      }
    }
  }
}

// Forgets steps in flight that are known to be superseded.
void Session::Impl::shed() {
  const auto given_way = std::remove_if(
      in_flight.begin(), in_flight.end(), [&](const Sent& sent) {
        const bool dropped = connection->was_dropped(sent.rid);
        if (dropped) {
          connection->forget(sent.rid);
        }
        return dropped;
      });
  in_flight.erase(given_way, in_flight.end());
}

Chunk Session::Impl::receive_one() {
  if (in_flight.empty()) {
    throw InvalidInput("receive: got no step in flight; allowed: after send_step");
  }
  Received received;
  try {
    received = surviving([&] { return receive_front(); });
  } catch (const ConnectionLost&) {
    throw;  // the step stays in flight
  } catch (const RemoteError& error) {
    // A server too busy to say it once more has the step all the same.
    if (error.code() != "BUSY" || !in_flight.front().again) {
      in_flight.pop_front();
      settle(error.committed_step());
    }
    throw;
  }
  const auto at = in_flight.front().at;
  log_.push_back(std::move(in_flight.front().step));
  if (static_cast<std::int64_t>(log_.size()) > std::min(info->resume_steps, kRemembered)) {
    log_since_ = log_.front().message.step;
    log_.pop_front();
  }
  in_flight.pop_front();
  const wire::FrameReply reply = expect<wire::FrameReply>(received, "frames");
  settle(reply.committed_step);
  require_frames(reply.frames, true);
  latest = make_chunk(std::move(received), reply.frames, reply.committed_step, at, info->spec);
  return latest;
}

// The reply to the oldest step, which is sent again when it was lost with its connection: the
// server takes a step once and answers it as often as it is asked.
Received Session::Impl::receive_front() {
  for (unsigned left = connection->options().resends;; --left) {
    try {
      send_lost();
      return connection->wait(in_flight.front().rid);
    } catch (const ConnectionLost&) {
      if (left == 0) {
        throw;
      }
    }
  }
}

// A server that does not know the session may still have its recording, and so its last frame.
Received Session::Impl::ask_close() {
  Received received = connection->ask(wire::Close{sid});
  if (!token_.empty() && expect<wire::Closed>(received, "closed").committed_step < 0) {
    throw RemoteError("NO_SESSION", "it is not there", false, -1);
  }
  return received;
}

// Steps that were lost with the connection they were sent on, in their order.
void Session::Impl::send_lost() {
  for (Sent& sent : in_flight) {
    if (!connection->expects(sent.rid)) {
      sent.rid = connection->send(sent.step.message, sent.step.arrays);
      sent.again = true;
    }
  }
}

// Brings the session back from its recording, if the server it was on is gone.
bool Session::Impl::came_back(std::string code, Clock::time_point give_up, bool catch_up) {
  const auto lost = [](const std::string& why) {
    return why == "CONNECTION_LOST" || why == "SHUTTING_DOWN" || why == "NO_SESSION";
  };
  while (!token_.empty() && lost(code) && Clock::now() < give_up) {
    try {
      Received received = connection->persevere(wire::Hello{}, kHello, give_up);
      const auto& there = expect<ServerInfo>(received, "hello_ok");
      if (code == "CONNECTION_LOST" && there.server_epoch == epoch_) {
        return false;  // it hangs
      }
      resume(there, give_up, catch_up);
      return true;
    } catch (const RemoteError& again) {
      if (!lost(again.code()) || token_.empty()) {
        closed = true;
        throw;
      }
      code = again.code();
    }
  }
  return false;
}

// What the recording lacks is taken again, what was in flight is sent again.
void Session::Impl::resume(const ServerInfo& there, Clock::time_point give_up, bool catch_up) {
  std::int64_t recorded = 0;
  try {
    Received received = rebuilt(give_up);
    recorded = expect<wire::Opened>(received, "opened").committed_step;
    if (catch_up) {
      require_remembered(recorded);
    }
  } catch (const ConnectionLost&) {
    throw;
  } catch (const RemoteError& error) {
    if (!error.retryable()) {
      token_.clear();  // never again
    }
    throw;
  }
  epoch_ = there.server_epoch;
  for (const Taken& step : log_) {
    if (catch_up && step.message.step > recorded) {
      connection->ask(step.message, step.arrays);
    }
  }
  for (const Sent& sent : in_flight) {
    connection->forget(sent.rid);
  }
  send_lost();
}

// The reply to a resume: a long session takes its server long, so it is waited for as long as the
// engine moves.
Received Session::Impl::rebuilt(Clock::time_point give_up) {
  const auto& options = connection->options();
  std::int64_t progress = -1;
  while (true) {
    try {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(give_up - Clock::now());
      const auto rid = connection->send(wire::Resume{token_}, {}, true);
      const auto patience = std::min(options.timeout, left);
      return connection->wait(rid, patience, patience);
    } catch (const RemoteError& error) {
      if (!error.retryable()) {
        throw;
      }
      const auto until = std::max(give_up, Clock::now() + kHello);
      Received received = connection->persevere(wire::Heartbeat{}, kHello, until);
      const auto& status = expect<Status>(received, "status");
      if (status.progress != progress) {
        progress = status.progress;
        give_up = Clock::now() + options.resume;
      } else if (Clock::now() >= give_up) {
        throw;
      }
    }
    std::this_thread::sleep_for(kPause);
  }
}

void Session::Impl::require_remembered(std::int64_t recorded) const {
  if (recorded < log_since_ || recorded >= next_step) {
    throw RemoteError("NO_SESSION",
                      "resume: the recording ends with step " + std::to_string(recorded) +
                          "; this client remembers the steps after " + std::to_string(log_since_) +
                          " up to " + std::to_string(next_step - 1) +
                          ", so what is between is lost",
                      false, recorded);
  }
}

// After a refusal the next step is the server's next; those in flight fail likewise.
void Session::Impl::settle(std::int64_t committed_step) {
  if (!realtime && in_flight.empty() && committed_step >= 0) {
    next_step = after(committed_step);
  }
}

Chunk Session::Impl::reset(const std::vector<Image>& frames, const StartOptions& options) {
  const PackedStart start = pack_start(frames, options, info->spec);
  const wire::Reset message{start.fields, sid};
  forget_steps();
  const auto at = Clock::now();
  Received received = surviving(
      [&] { return connection->wait(connection->send(message, start.arrays)); }, false);
  const wire::FrameReply reply = expect<wire::FrameReply>(received, "frames");
  require_frames(reply.frames, !frames.empty());
  seed = options.seed;
  prompt_psnr_db = reply.prompt_psnr_db;
  first = latest =
      make_chunk(std::move(received), reply.frames, reply.committed_step, at, info->spec);
  next_step = after(reply.committed_step);
  log_.clear();
  log_since_ = reply.committed_step;
  return first;
}

std::unique_ptr<Session::Impl> Session::Impl::fork(std::optional<std::uint64_t> its_seed) {
  const std::string key = new_key();
  return connection->or_withdrawn(key, [&] {
    Received received = surviving([&] { return connection->ask(wire::Fork{sid, its_seed, key}); });
    const auto& opened = expect<wire::Opened>(received, "opened");
    return std::make_unique<Impl>(connection, info, opened, latest, realtime);
  });
}

Chunk Session::Impl::close() {
  if (closed) {
    return last;
  }
  closed = true;
  forget_steps();
  const auto at = Clock::now();
  Received received;
  try {
    received = surviving([&] { return ask_close(); });
  } catch (const RemoteError& error) {
    if (error.code() == "NO_SESSION") {
      return last;  // over all the same
    }
    throw;
  }
  const wire::Closed reply = expect<wire::Closed>(received, "closed");
  last = make_chunk(std::move(received), reply.frames, reply.committed_step, at, info->spec);
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
