// A network that loses what a test tells it to: stands between a client and a real server.

#pragma once

#include <zmq.hpp>

#include <atomic>
#include <string>
#include <thread>

class LossyProxy {
 public:
  explicit LossyProxy(const std::string& server);
  ~LossyProxy();

  [[nodiscard]] const std::string& endpoint() const { return endpoint_; }

  // The next messages of that direction are read and dropped, heartbeats excepted.
  std::atomic<int> lose_requests{0};
  std::atomic<int> lose_replies{0};
  std::atomic<int> requests_passed{0};

 private:
  void run();

  zmq::context_t context_;
  zmq::socket_t clients_;
  zmq::socket_t server_;
  std::string server_endpoint_;
  std::string endpoint_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};
