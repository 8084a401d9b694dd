// Every error a caller of the client can meet, as one tree.
//
//     Error (std::runtime_error)
//     |- InvalidInput      a caller's mistake; nothing was sent
//     |- ProtocolError     the server sent what the protocol does not allow
//     |- SessionClosed     a call on a session that is over
//     |- WrongOwner        a client used in a process forked from its own
//     `- RemoteError       the server refused the request and said why
//        `- ConnectionLost the server did not answer in time
//           `- NobodyListens there is no server at that address
//
// What libzmq itself fails with (no file descriptors left, say) comes as its own std::exception.

#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace sim_stream {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class InvalidInput : public Error {
 public:
  using Error::Error;
};

class ProtocolError : public Error {
 public:
  using Error::Error;
};

class SessionClosed : public Error {
 public:
  using Error::Error;
};

// libzmq's sockets do not survive a fork: a forked process makes a client of its own.
class WrongOwner : public Error {
 public:
  using Error::Error;
};

// `code` is one of bridge/PROTOCOL.md's. `committed_step` is the session's, -1 where there is none.
class RemoteError : public Error {
 public:
  RemoteError(std::string code, const std::string& message, bool retryable,
              std::int64_t committed_step)
      : Error(code + ": " + message),
        code_(std::move(code)),
        retryable_(retryable),
        committed_step_(committed_step) {}

  [[nodiscard]] const std::string& code() const noexcept { return code_; }
  [[nodiscard]] bool retryable() const noexcept { return retryable_; }
  [[nodiscard]] std::int64_t committed_step() const noexcept { return committed_step_; }

 private:
  std::string code_;
  bool retryable_;
  std::int64_t committed_step_;
};

// A step stays in flight: `Session::receive` asks for it again. The session of an open or a fork that
// was given up is closed as soon as it stands.
class ConnectionLost : public RemoteError {
 public:
  explicit ConnectionLost(const std::string& message)
      : RemoteError("CONNECTION_LOST", message, true, -1) {}
};

// No server came to that address within the time that a client gives a first one to appear.
class NobodyListens : public ConnectionLost {
 public:
  using ConnectionLost::ConnectionLost;
};

}  // namespace sim_stream
