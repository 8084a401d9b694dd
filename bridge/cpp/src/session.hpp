// A session's state. Knows the protocol's rules for steps; the connection knows the socket.

#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "chunk.hpp"
#include "connection.hpp"
#include "pack.hpp"

namespace sim_stream {

struct Session::Impl {
  // A step as it is sent, however often: with the arrays that the server knows it again by.
  struct Taken {
    wire::Step message;
    wire::OutgoingArrays arrays;
  };
  // A step in flight. `again`: it was sent before.
  struct Sent {
    Taken step;
    std::uint64_t rid;
    Clock::time_point at;
    bool again = false;
  };

  Impl(std::shared_ptr<Connection> its_connection, std::shared_ptr<const ServerInfo> its_info,
       const wire::Opened& opened, Chunk chunk, bool in_realtime);
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::int64_t send_step(const Inputs& inputs, const StepOptions& options);
  Chunk receive();
  Chunk reset(const std::vector<Image>& frames, const StartOptions& options);
  std::unique_ptr<Impl> fork(std::optional<std::uint64_t> its_seed);
  Chunk close();
  void forget_steps();
  void require_none_in_flight(const char* call) const;

  // Runs a call, and runs it again when the session had to be resumed on another server. A session
  // that the server no longer has is closed here, too.
  template <typename Call>
  auto surviving(Call&& call, bool catch_up = true) -> decltype(call()) {
    const auto give_up = Clock::now() + connection->options().resume;
    while (true) {
      try {
        return call();
      } catch (const RemoteError& error) {
        if (!came_back(error.code(), give_up, catch_up)) {
          closed = closed || error.code() == "NO_SESSION" || error.code() == "SHUTTING_DOWN";
          throw;
        }
      }
    }
  }

  std::shared_ptr<Connection> connection;
  std::shared_ptr<const ServerInfo> info;
  std::string sid;
  std::uint64_t seed;
  Chunk first;
  std::optional<double> prompt_psnr_db;
  Chunk latest;
  Chunk last;
  std::deque<Sent> in_flight;
  std::int64_t next_step;
  bool realtime;
  bool closed = false;

 private:
  Received receive_front();
  Received ask_close();
  Chunk receive_one();
  void shed();
  void send_lost();
  bool came_back(std::string code, Clock::time_point give_up, bool catch_up);
  void resume(const ServerInfo& there, Clock::time_point give_up, bool catch_up);
  Received rebuilt(Clock::time_point give_up);
  void require_remembered(std::int64_t recorded) const;

  // Empty: the session ends with its server.
  std::string token_;
  std::string epoch_;
  // Steps whose replies came: what the recording may still lack, the steps after `log_since_`.
  std::deque<Taken> log_;
  std::int64_t log_since_;
  void settle(std::int64_t committed_step);
};

// For an open or a fork of one's own: nobody else will ever come up with it.
std::string new_key();

// The reply as the type that was asked for. Throws ProtocolError.
template <typename T>
T& expect(Received& received, const char* name) {
  T* body = std::get_if<T>(&received.reply.body);
  if (body == nullptr) {
    throw ProtocolError(std::string("reply: allowed: ") + name);
  }
  return *body;
}

}  // namespace sim_stream
