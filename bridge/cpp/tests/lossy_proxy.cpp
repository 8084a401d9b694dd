#include "lossy_proxy.hpp"

#include <zmq_addon.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <vector>

namespace {

constexpr std::chrono::milliseconds kPoll{20};
constexpr int kLingerMs = 500;

// Moves a message on; the first part of what comes from the clients is their routing id.
std::vector<zmq::message_t> receive(zmq::socket_t& socket) {
  std::vector<zmq::message_t> parts;
  static_cast<void>(zmq::recv_multipart(socket, std::back_inserter(parts)));
  return parts;
}

// A client that waits long asks now and then whether its server is still there; no test loses that.
bool is(const zmq::message_t& header, std::string_view type) {
  return header.to_string_view().find(type) != std::string_view::npos;
}

}  // namespace

LossyProxy::LossyProxy(const std::string& server)
    : clients_(context_, zmq::socket_type::router), server_endpoint_(server) {
  clients_.set(zmq::sockopt::linger, 0);
  clients_.bind("tcp://127.0.0.1:*");
  endpoint_ = clients_.get(zmq::sockopt::last_endpoint);
  thread_ = std::thread([this] { run(); });
}

LossyProxy::~LossyProxy() {
  stop_ = true;
  thread_.join();
}

// One connection to the server for each of the clients', as without a proxy.
void LossyProxy::run() {
  std::map<std::string, zmq::socket_t> servers;
  bool idle = false;
  while (!stop_ || !idle) {  // the last words of a client still pass
    std::vector<zmq::pollitem_t> items{{clients_.handle(), 0, ZMQ_POLLIN, 0}};
    std::vector<std::string> routes{""};
    for (auto& [route, socket] : servers) {
      items.push_back({socket.handle(), 0, ZMQ_POLLIN, 0});
      routes.push_back(route);
    }
    idle = zmq::poll(items, kPoll) == 0;
    if ((items[0].revents & ZMQ_POLLIN) != 0) {
      auto parts = receive(clients_);
      const std::string route = parts.front().to_string();
      parts.erase(parts.begin());
      if (servers.count(route) == 0) {
        auto& socket =
            servers.emplace(route, zmq::socket_t(context_, zmq::socket_type::dealer)).first->second;
        socket.set(zmq::sockopt::linger, kLingerMs);
        socket.connect(server_endpoint_);
      }
      const bool counts = !is(parts.front(), "heartbeat");
      if (counts && lose_requests > 0) {
        --lose_requests;
      } else {
        requests_passed += counts;
        zmq::send_multipart(servers.at(route), parts);
      }
    }
    for (std::size_t i = 1; i < items.size(); ++i) {
      if ((items[i].revents & ZMQ_POLLIN) != 0) {
        auto parts = receive(servers.at(routes[i]));
        const bool counts = !is(parts.front(), "status");
        parts.insert(parts.begin(), zmq::message_t(routes[i]));
        if (counts && lose_replies > 0) {
          --lose_replies;
        } else {
          zmq::send_multipart(clients_, parts);
        }
      }
    }
  }
}
