// What the tests have in common that need a running server, started by tests/bridge/with_server.py.

#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "sim_stream/client.hpp"

using namespace sim_stream;
using namespace std::chrono_literals;

inline std::string environment(const char* name) {
  const char* value = std::getenv(name);
  REQUIRE_MESSAGE(value != nullptr, "run me through tests/bridge/with_server.py");
  return value;
}

inline std::string endpoint() { return environment("SIM_STREAM_ENDPOINT"); }

// How long to wait for a reply that a test loses; longer than the server ever takes.
inline ClientOptions impatient(unsigned resends) {
  return {std::chrono::milliseconds(std::stoi(environment("SIM_STREAM_PATIENCE_MS"))), resends};
}

// A road of two greys: what is on it does not matter here.
inline std::vector<Image> prompt(const ServerInfo& info, std::size_t count = 2) {
  const auto height = static_cast<std::size_t>(info.spec.frame_shape[0]);
  const auto width = static_cast<std::size_t>(info.spec.frame_shape[1]);
  Image image{height, width, std::vector<std::uint8_t>(height * width * 3, 120)};
  std::fill_n(image.rgb.begin(), image.rgb.size() / 2, std::uint8_t{200});
  return std::vector<Image>(count, image);
}

const inline Action kLeft{8.0, 0.25};

// What an undisturbed drive of `steps` steps under kLeft shows.
inline std::vector<Frame> undisturbed(Client& client, int steps) {
  auto session = client.open(prompt(client.info()));
  std::vector<Frame> frames;
  for (int n = 0; n < steps; ++n) {
    frames.push_back(session.step(kLeft).last());
  }
  return frames;
}

// Closing without waiting takes a moment to reach the server.
inline bool sessions_become(Client& client, std::int64_t sessions) {
  for (int attempt = 0; attempt < 500; ++attempt) {
    if (client.status().sessions == sessions) {
      return true;
    }
    std::this_thread::sleep_for(20ms);
  }
  return false;
}

template <typename Call>
std::string code_of(Call&& call) {
  try {
    call();
  } catch (const RemoteError& error) {
    return error.code();
  }
  return "";
}
