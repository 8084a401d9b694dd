// One client's connection: sends requests, matches replies to them, knows when to give up.
//
// A DEALER socket that belongs to the thread that uses it. Replies may come in any order and are
// kept until somebody waits for them. Knows no sessions and no frames.

#pragma once

#include <zmq.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "handshakes.hpp"
#include "keys.hpp"
#include "messages.hpp"
#include "sim_stream/client.hpp"

namespace sim_stream {

using Clock = std::chrono::steady_clock;

struct Received {
  wire::Reply reply;
  std::vector<std::vector<std::uint8_t>> parts;
  Clock::time_point at;
};

class Connection {
 public:
  // Connects at once, in the background. Throws InvalidInput.
  Connection(std::string endpoint, const ClientOptions& options);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  [[nodiscard]] const ClientOptions& options() const { return options_; }

  // Sends a request; its rid, to `wait` for. Throws ConnectionLost, RemoteError. Once a server said
  // farewell every request fails at once, but for those that begin `anew`.
  std::uint64_t send(const wire::Request& request, const wire::OutgoingArrays& arrays = {},
                     bool anew = false);

  // Sends a request if that can be done at once, and ignores its reply.
  void send_unanswered(const wire::Request& request) noexcept;

  // The reply to a request. Throws ConnectionLost (the socket is then a new one, or another server
  // has come), RemoteError. `busy`: a server that says that it has the request may take that long.
  Received wait(std::uint64_t rid) { return wait(rid, options_.timeout, options_.busy); }
  Received wait(std::uint64_t rid, std::chrono::milliseconds timeout,
                std::chrono::milliseconds busy);

  // Runs what opens a session with that key. If it fails, the server closes the session as soon as it
  // stands: nobody will ever know its sid.
  template <typename Opening>
  auto or_withdrawn(const std::string& idempotency_key, Opening&& opening) -> decltype(opening()) {
    try {
      return opening();
    } catch (const ConnectionLost&) {
      send_unanswered(wire::Close{"", idempotency_key});
      throw;
    } catch (const RemoteError&) {  // it was refused: there is none
      throw;
    } catch (...) {
      send_unanswered(wire::Close{"", idempotency_key});
      throw;
    }
  }

  // Sends and waits; again up to `resends` times what the server does once however often it comes.
  Received ask(const wire::Request& request, const wire::OutgoingArrays& arrays = {},
               bool anew = false);

  // The same until somebody answers it, for as long as errors are those of a server that comes up.
  Received persevere(const wire::Request& request, std::chrono::milliseconds timeout,
                     Clock::time_point give_up);

  void forget(std::uint64_t rid);

  // Whether the reply is there and says that a newer step took that one's place.
  [[nodiscard]] bool was_dropped(std::uint64_t rid) const;

  // Whether a reply to this request has come or can still come.
  [[nodiscard]] bool expects(std::uint64_t rid) const { return expected_.count(rid) == 1; }

 private:
  // Whether this is a process forked from the one that made it, where no socket of it works.
  [[nodiscard]] bool elsewhere() const;
  void require_process() const;
  void connect(bool reached);
  void reconnect();
  [[noreturn]] void give_up(bool computing);
  void await_room(Clock::time_point deadline);
  void await_news(short events, std::chrono::milliseconds timeout);
  bool poll(short events, std::chrono::milliseconds timeout);
  bool transmit(const wire::Request& request, std::uint64_t rid,
                const wire::OutgoingArrays& arrays);
  void read_waiting();
  void read_one();
  void meet(const std::string& epoch, std::uint64_t rid);
  void beat(std::uint64_t awaiting);
  void raise_absence();
  void raise_farewell();
  void raise_refusal();
  [[nodiscard]] std::string unanswered(std::chrono::milliseconds waited) const;
  [[nodiscard]] std::string probable_cause() const;
  [[nodiscard]] ConnectionLost lost() const;

  std::string endpoint_;
  ClientOptions options_;
  std::optional<ClientKeys> keys_;
  std::uint64_t next_rid_ = 1;
  std::set<std::uint64_t> expected_;
  std::map<std::uint64_t, Received> replies_;
  // When the server last said that it has that request.
  std::map<std::uint64_t, Clock::time_point> confirmed_;
  std::string epoch_;
  std::chrono::milliseconds heartbeat_{1000};
  std::optional<wire::Refusal> farewell_;
  bool farewell_told_ = false;
  long process_;
  Clock::time_point begin_ = Clock::now();
  zmq::context_t context_;
  zmq::socket_t socket_;
  std::unique_ptr<Handshakes> handshakes_;
};

}  // namespace sim_stream
