#include "connection.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "codec.hpp"

namespace sim_stream {
namespace {

// Bounds what a server may send, whatever it says of its frames.
constexpr std::int64_t kMaxReplyBytes = 64 * 1024 * 1024;
constexpr int kRepliesQueued = 64;
// How long the last messages, closes of sessions, may take to leave.
constexpr int kLingerMs = 200;
// Between two attempts to reach a server that comes up.
constexpr std::chrono::milliseconds kPause{100};
// However often a server says that it would be asked.
constexpr std::chrono::milliseconds kShortestBeat{5};
constexpr std::chrono::milliseconds kLongestBeat{60'000};
// Messages that are read before the clock is looked at again.
constexpr int kReadAtOnce = 64;
// Heartbeats are no closer: a wait that is shorter ends on time, whatever the server does.
constexpr std::chrono::milliseconds kBeat{500};

RemoteError remote_error(const wire::Refusal& refusal) {
  return {refusal.code, refusal.message, refusal.retryable, refusal.committed_step};
}

std::string_view view(const zmq::message_t& part) {
  return {static_cast<const char*>(part.data()), part.size()};
}

}  // namespace

Connection::Connection(std::string endpoint, const ClientOptions& options)
    : endpoint_(std::move(endpoint)),
      options_(options),
      keys_(load_keys(options)),
      process_(::getpid()) {
  if (options_.timeout.count() <= 0) {
    throw InvalidInput("timeout: got " + std::to_string(options_.timeout.count()) +
                       " ms; allowed: more than 0");
  }
  try {
    connect(false);
  } catch (const zmq::error_t& error) {
    throw InvalidInput("endpoint: got " + endpoint_ + "; allowed: tcp://HOST:PORT, ipc://PATH (" +
                       error.what() + ")");
  }
}

// In a forked process libzmq cannot end its context, and cppzmq would ask for it for ever: there the
// handles are left to the end of the process.
Connection::~Connection() {
  if (elsewhere()) {
    static_cast<void>(handshakes_.release());
    static_cast<void>(new zmq::socket_t(std::move(socket_)));
    static_cast<void>(new zmq::context_t(std::move(context_)));
  }
}

bool Connection::elsewhere() const { return ::getpid() != process_; }

void Connection::require_process() const {
  if (elsewhere()) {
    throw WrongOwner("client: got a use in process " + std::to_string(::getpid()) +
                     "; allowed: in process " + std::to_string(process_) +
                     ", which made it (a forked process makes a client of its own)");
  }
}

std::uint64_t Connection::send(const wire::Request& request, const wire::OutgoingArrays& arrays,
                               bool anew) {
  require_process();
  read_waiting();
  if (anew && farewell_told_) {
    farewell_.reset();
    farewell_told_ = false;
  }
  raise_farewell();
  const std::uint64_t rid = next_rid_++;
  const auto deadline = Clock::now() + options_.timeout;
  while (!transmit(request, rid, arrays)) {
    await_room(deadline);
  }
  expected_.insert(rid);
  return rid;
}

void Connection::send_unanswered(const wire::Request& request) noexcept {
  if (elsewhere()) {
    return;
  }
  try {
    transmit(request, next_rid_++, {});
  } catch (const std::exception&) {  // called by destructors; the lease ends the session instead
  }
}

Received Connection::wait(std::uint64_t rid, std::chrono::milliseconds timeout,
                          std::chrono::milliseconds busy) {
  require_process();
  const auto begin = Clock::now();
  const auto interval = std::min(heartbeat_, std::max(kBeat, timeout / 2));
  auto beaten = begin;
  read_waiting();
  while (replies_.count(rid) == 0) {
    raise_farewell();
    if (!expects(rid)) {  // it went to a server that is gone
      throw lost();
    }
    raise_absence();
    // Time runs out while the server is silent; not while it says that it has the request.
    const auto confirmed = confirmed_.find(rid);
    const auto silent_since =
        confirmed == confirmed_.end() ? begin : std::max(begin, confirmed->second);
    const auto over = std::min(silent_since + timeout, begin + std::max(timeout, busy));
    const auto now = Clock::now();
    if (now >= over) {
      give_up(confirmed != confirmed_.end() && now - confirmed->second < 2 * interval + kBeat);
    }
    const auto next = std::min(over, beaten + interval);
    await_news(ZMQ_POLLIN, std::max(std::chrono::ceil<std::chrono::milliseconds>(next - now),
                                    std::chrono::milliseconds(0)));
    read_waiting();
    if (replies_.count(rid) == 0) {
      raise_refusal();
      if (Clock::now() - beaten >= interval) {
        beaten = Clock::now();
        beat(rid);
      }
    }
  }
  Received received = std::move(replies_.at(rid));
  forget(rid);
  if (const auto* refusal = std::get_if<wire::Refusal>(&received.reply.body)) {
    throw remote_error(*refusal);
  }
  return received;
}

Received Connection::ask(const wire::Request& request, const wire::OutgoingArrays& arrays,
                         bool anew) {
  for (unsigned left = options_.resends;; --left) {
    try {
      return wait(send(request, arrays, anew));
    } catch (const NobodyListens&) {
      throw;
    } catch (const ConnectionLost&) {
      if (left == 0) {
        throw;
      }
    }
  }
}

Received Connection::persevere(const wire::Request& request, std::chrono::milliseconds timeout,
                               Clock::time_point give_up) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(give_up - Clock::now());
    try {
      const auto patience = std::min(timeout, left);
      return wait(send(request, {}, true), patience, patience);
    } catch (const RemoteError& error) {
      const bool coming = error.code() == "CONNECTION_LOST" || error.code() == "SHUTTING_DOWN" ||
                          error.code() == "BUSY";
      if (!coming || Clock::now() >= give_up) {
        throw;
      }
    }
    std::this_thread::sleep_for(kPause);
  }
}

// Another epoch: the server before is gone, with all requests that it had not answered.
void Connection::meet(const std::string& epoch, std::uint64_t rid) {
  if (!epoch_.empty() && epoch != epoch_) {
    std::set<std::uint64_t> kept;
    for (const std::uint64_t expected : expected_) {
      if (expected == rid || replies_.count(expected) == 1) {
        kept.insert(expected);
      }
    }
    expected_ = std::move(kept);
  }
  epoch_ = epoch;
}

// Asks whether the server is still the same and has that request; nobody waits for the answer.
void Connection::beat(std::uint64_t awaiting) {
  transmit(wire::Heartbeat{"", 0, awaiting}, next_rid_++, {});
}

// A first server has had its time to appear.
void Connection::raise_absence() {
  if (!epoch_.empty() || Clock::now() - begin_ < options_.connect_timeout) {
    return;
  }
  handshakes_->read();
  if (!handshakes_->reached()) {
    throw NobodyListens(unanswered(options_.connect_timeout) + probable_cause());
  }
}

bool Connection::was_dropped(std::uint64_t rid) const {
  const auto found = replies_.find(rid);
  if (found == replies_.end()) {
    return false;
  }
  const auto* refusal = std::get_if<wire::Refusal>(&found->second.reply.body);
  return refusal != nullptr && refusal->code == "DROPPED";
}

void Connection::forget(std::uint64_t rid) {
  expected_.erase(rid);
  replies_.erase(rid);
  confirmed_.erase(rid);
}

// Not IMMEDIATE: with it libzmq drops what was received but not yet read as soon as the server
// disconnects, so a server's last frame and its farewell would be lost.
void Connection::connect(bool reached) {
  socket_ = zmq::socket_t(context_, zmq::socket_type::dealer);
  socket_.set(zmq::sockopt::linger, kLingerMs);
  socket_.set(zmq::sockopt::maxmsgsize, kMaxReplyBytes);
  socket_.set(zmq::sockopt::ipv6, endpoint_.find('[') != std::string::npos);
  socket_.set(zmq::sockopt::sndhwm, kRepliesQueued);
  socket_.set(zmq::sockopt::rcvhwm, kRepliesQueued);
  if (keys_) {
    socket_.set(zmq::sockopt::curve_serverkey, keys_->server_public_key);
    socket_.set(zmq::sockopt::curve_publickey, keys_->public_key);
    socket_.set(zmq::sockopt::curve_secretkey, keys_->secret_key);
  }
  handshakes_ = std::make_unique<Handshakes>(context_, socket_, keys_.has_value(), reached);
  socket_.connect(endpoint_);
}

// Requests still queued must not reach a server that comes later: nobody waits for them.
void Connection::reconnect() {
  socket_.set(zmq::sockopt::linger, 0);
  expected_.clear();
  replies_.clear();
  confirmed_.clear();
  const bool reached = handshakes_->reached();
  handshakes_.reset();
  connect(reached);
}

void Connection::give_up(bool computing) {
  const ConnectionLost error = computing
                                   ? ConnectionLost(unanswered(options_.busy) +
                                                    ": the server is alive and computing")
                                   : lost();
  reconnect();
  throw error;
}

// Returns when sending may succeed.
void Connection::await_room(Clock::time_point deadline) {
  raise_refusal();
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  if (left.count() <= 0) {
    give_up(false);
  }
  await_news(ZMQ_POLLOUT, left);
}

// Waits for the socket or for what becomes of a handshake.
void Connection::await_news(short events, std::chrono::milliseconds timeout) {
  zmq::pollitem_t items[] = {{socket_.handle(), 0, events, 0},
                             {handshakes_->handle(), 0, ZMQ_POLLIN, 0}};
  try {
    zmq::poll(items, 2, timeout);
  } catch (const zmq::error_t& error) {
    if (error.num() != EINTR) {  // the caller knows how long is left
      throw;
    }
  }
}

bool Connection::poll(short events, std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  zmq::pollitem_t item{socket_.handle(), 0, events, 0};
  while (true) {
    try {
      return zmq::poll(&item, 1, std::max(timeout, std::chrono::milliseconds(0))) > 0;
    } catch (const zmq::error_t& error) {
      if (error.num() != EINTR) {
        throw;
      }
      timeout = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    }
  }
}

// False: the socket takes nothing now. It is full, or its connection has just ended.
bool Connection::transmit(const wire::Request& request, std::uint64_t rid,
                          const wire::OutgoingArrays& arrays) {
  std::vector<wire::ArraySpec> specs;
  for (const wire::OutgoingArray& array : arrays) {
    specs.push_back(array.spec);
  }
  const std::string header = wire::encode(request, rid, specs);
  const auto put = [&](zmq::const_buffer part, bool last) {
    const auto more = last ? zmq::send_flags::none : zmq::send_flags::sndmore;
    return socket_.send(part, more | zmq::send_flags::dontwait).has_value();
  };
  bool sent = put(zmq::buffer(header), arrays.empty());
  if (!sent) {
    return false;
  }
  // To the end even when the connection went between two parts: what follows would be taken for the
  // rest of this message.
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    sent = put(zmq::buffer(arrays[i].bytes), i + 1 == arrays.size()) && sent;
  }
  return sent;
}

void Connection::read_waiting() {
  // No more: a server that never stops sending must not hold us here.
  for (int i = 0; i < kReadAtOnce && poll(ZMQ_POLLIN, std::chrono::milliseconds(0)); ++i) {
    read_one();
  }
}

void Connection::read_one() {
  std::vector<zmq::message_t> parts;
  bool more = true;
  while (more) {
    zmq::message_t part;
    if (!socket_.recv(part, zmq::recv_flags::dontwait)) {
      return;
    }
    more = part.more();
    if (parts.size() < wire::kParts + 2) {  // one part too many stays, to be refused
      parts.push_back(std::move(part));
    }
  }
  Received received{wire::decode_reply(view(parts.front())), {}, Clock::now()};
  std::vector<std::size_t> sizes;
  for (std::size_t i = 1; i < parts.size(); ++i) {
    sizes.push_back(parts[i].size());
  }
  wire::check_parts(received.reply.arrays, sizes);
  const std::uint64_t rid = received.reply.rid;
  if (const auto* info = std::get_if<ServerInfo>(&received.reply.body)) {
    meet(info->server_epoch, rid);
    heartbeat_ = std::clamp(std::chrono::milliseconds(info->heartbeat_ms), kShortestBeat,
                            kLongestBeat);
  } else if (const auto* status = std::get_if<Status>(&received.reply.body)) {
    meet(status->server_epoch, rid);
    if (expects(status->pending)) {
      confirmed_[status->pending] = Clock::now();
    }
  }
  const auto* refusal = std::get_if<wire::Refusal>(&received.reply.body);
  if (expects(rid)) {
    for (std::size_t i = 1; i < parts.size(); ++i) {
      const auto* bytes = static_cast<const std::uint8_t*>(parts[i].data());
      received.parts.emplace_back(bytes, bytes + parts[i].size());
    }
    replies_.insert_or_assign(rid, std::move(received));
  } else if (rid == 0 && refusal != nullptr) {
    farewell_ = *refusal;
  }
}

void Connection::raise_farewell() {
  if (farewell_) {
    farewell_told_ = true;
    throw remote_error(*farewell_);
  }
}

// libzmq connects no more after a refusal: the next request begins with a new socket.
void Connection::raise_refusal() {
  handshakes_->read();
  const std::string why = handshakes_->refusal();
  if (!why.empty()) {
    reconnect();
    throw RemoteError("UNAUTHENTICATED", why, false, -1);
  }
}

std::string Connection::unanswered(std::chrono::milliseconds waited) const {
  return "no answer from " + endpoint_ + " within " + std::to_string(waited.count()) + " ms";
}

std::string Connection::probable_cause() const {
  if (handshakes_->reached()) {
    const std::string& hint = handshakes_->hint();
    return hint.empty() ? "" : ": " + hint;
  }
  return ": nobody listens at " + endpoint_ + "; start it: sim-stream serve --bind " + endpoint_ +
         " (it listens once it says `ready`)";
}

ConnectionLost Connection::lost() const {
  return ConnectionLost(unanswered(options_.timeout) + probable_cause());
}

}  // namespace sim_stream
