// Why a client does not get through to its server: what the socket's handshakes say.
//
// ZeroMQ tries again in the background and tells nobody why it fails; its monitor does. Some
// failures end all attempts, others may pass.

#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <zmq.hpp>

namespace sim_stream {

class Handshakes {
 public:
  // Before the socket connects. Lives shorter than the socket. `reached`: whether somebody listened
  // at the address a moment ago, as the socket before this one found.
  Handshakes(zmq::context_t& context, zmq::socket_t& socket, bool with_keys, bool reached);
  ~Handshakes();
  Handshakes(const Handshakes&) = delete;
  Handshakes& operator=(const Handshakes&) = delete;

  // Takes in what has happened since the last call.
  void read();

  // To poll for news.
  [[nodiscard]] void* handle() { return events_.handle(); }

  // Whether somebody listens at the address, whoever it is.
  [[nodiscard]] bool reached() const;
  // Why libzmq has given up; "" as long as it has not.
  [[nodiscard]] const std::string& refusal() const { return refusal_; }
  // Why the last attempt failed, where more will follow; "" if it did not.
  [[nodiscard]] const std::string& hint() const { return hint_; }

 private:
  void* watched_;
  zmq::socket_t events_;
  bool with_keys_;
  std::string refusal_;
  std::string hint_;
  bool connected_ = false;
  std::optional<std::chrono::steady_clock::time_point> connected_at_;
};

}  // namespace sim_stream
