// Drives a sim-stream server: a street, a few seconds of steering, the last frame as an image.
//
//     sim-stream serve --bind tcp://127.0.0.1:5555
//     drive [FRAMES] [OUT.ppm]
//
// SIM_STREAM_ENDPOINT names another server; to one that asks for keys SIM_STREAM_KEY and
// SIM_STREAM_SERVER_KEY name the files of ClientOptions.

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <string>

#include "sim_stream/client.hpp"

namespace {

// Stands in for a simulator's camera: sky, grass and a grey road that narrows to the horizon.
sim_stream::Image camera(const sim_stream::ServerInfo& info) {
  const auto height = static_cast<std::size_t>(info.frame_shape[0]);
  const auto width = static_cast<std::size_t>(info.frame_shape[1]);
  sim_stream::Image image{height, width, {}};
  image.rgb.reserve(height * width * 3);
  for (std::size_t y = 0; y < height; ++y) {
    const double depth = static_cast<double>(y) / static_cast<double>(height) - 0.5;
    for (std::size_t x = 0; x < width; ++x) {
      const double side = std::abs(static_cast<double>(x) / static_cast<double>(width) - 0.5);
      const bool sky = depth < 0;
      const bool road = !sky && side < depth;
      const std::uint8_t red = sky ? 140 : road ? 90 : 80;
      const std::uint8_t green = sky ? 180 : road ? 90 : 120;
      const std::uint8_t blue = sky ? 220 : road ? 95 : 60;
      image.rgb.insert(image.rgb.end(), {red, green, blue});
    }
  }
  return image;
}

void write_ppm(const std::string& path, const sim_stream::Image& image) {
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << image.width << ' ' << image.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(image.rgb.data()),
             static_cast<std::streamsize>(image.rgb.size()));
  if (!file.flush()) {
    throw std::runtime_error("cannot write " + path);
  }
}

std::string environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : otherwise;
}

void drive(int frames, const std::string& out) {
  sim_stream::ClientOptions options;
  options.key_file = environment("SIM_STREAM_KEY", "");
  options.server_key_file = environment("SIM_STREAM_SERVER_KEY", "");
  sim_stream::Client client(environment("SIM_STREAM_ENDPOINT", "tcp://127.0.0.1:5555"), options);
  const auto& info = client.info();
  std::cout << info.model_id << " at " << info.fps() << " fps\n";

  auto session = client.open({camera(info), camera(info)});
  sim_stream::Frame frame = session.first_frame();
  for (int n = 1; n <= frames; ++n) {
    const sim_stream::Action action{8.0, 0.2 * std::sin(0.5 * n)};
    frame = session.step(info.takes_actions() ? std::optional(action) : std::nullopt);
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(frame.round_trip);
    std::cout << "frame " << frame.frame_id << " in " << took.count() << " ms\n";
  }
  if (auto last = session.close()) {
    frame = *last;
  }
  if (!out.empty()) {
    write_ppm(out, frame.image);
    std::cout << "wrote " << out << " (frame " << frame.frame_id << ")\n";
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int frames = argc > 1 ? std::stoi(argv[1]) : 20;
    drive(frames, argc > 2 ? argv[2] : "");
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "drive: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}
