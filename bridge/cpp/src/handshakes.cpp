#include "handshakes.hpp"

#include <atomic>
#include <cstdint>
#include <cstring>

namespace sim_stream {
namespace {

// libzmq connects again after 200 ms at most: who listens and breaks off was reached not longer ago.
constexpr std::chrono::milliseconds kLately{500};
constexpr int kEvents = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                        ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

}  // namespace

Handshakes::Handshakes(zmq::context_t& context, zmq::socket_t& socket, bool with_keys, bool reached)
    : watched_(socket.handle()), events_(context, zmq::socket_type::pair), with_keys_(with_keys) {
  if (reached) {
    connected_at_ = std::chrono::steady_clock::now();
  }
  // Its own for each socket: that of one just closed may still be taken.
  static std::atomic<std::uint64_t> made{0};
  const std::string address = "inproc://handshakes-" + std::to_string(made++);
  if (zmq_socket_monitor(watched_, address.c_str(), kEvents) != 0) {
    throw zmq::error_t();
  }
  events_.set(zmq::sockopt::linger, 0);
  // No bound: libzmq's thread waits, and all its sockets with it, while a monitor is full.
  events_.set(zmq::sockopt::rcvhwm, 0);
  events_.connect(address);
}

// Detached first: libzmq's thread would wait for a reader that has gone.
Handshakes::~Handshakes() { zmq_socket_monitor(watched_, nullptr, 0); }

bool Handshakes::reached() const {
  return connected_ ||
         (connected_at_ && std::chrono::steady_clock::now() - *connected_at_ < kLately);
}

void Handshakes::read() {
  zmq::message_t event;
  while (events_.recv(event, zmq::recv_flags::dontwait)) {
    std::uint16_t what = 0;
    std::uint32_t value = 0;
    std::memcpy(&what, event.data(), sizeof what);
    std::memcpy(&value, static_cast<const char*>(event.data()) + sizeof what, sizeof value);
    zmq::message_t address;
    static_cast<void>(events_.recv(address, zmq::recv_flags::none));  // always follows
    switch (what) {
      case ZMQ_EVENT_CONNECTED:
      case ZMQ_EVENT_DISCONNECTED:
        connected_ = what == ZMQ_EVENT_CONNECTED;
        connected_at_ = std::chrono::steady_clock::now();
        break;
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        refusal_.clear();
        hint_.clear();
        break;
      case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        refusal_ =
            "the server does not know this client's key; put its .pub file on the server's --allow";
        break;
      case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        refusal_ = with_keys_
                       ? "this client has keys and the server none; leave out the key files"
                       : "the server asks for keys; give key_file and server_key_file";
        if (value != ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) {
          refusal_ = "what answers there breaks ZeroMQ's protocol; it is no sim-stream server";
        }
        break;
      default:
        hint_ = with_keys_ ? "the server breaks off the handshake; probably server_key_file is not "
                             "its public key"
                           : "the server breaks off the handshake; it asks for keys, or is no "
                             "sim-stream server";
    }
  }
}

}  // namespace sim_stream
