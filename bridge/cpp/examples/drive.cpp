// Drives a sim-stream server: a street, a few seconds of steering, the last frame as an image.
//
//     sim-stream serve --bind tcp://127.0.0.1:5555
//     drive [FRAMES] [OUT.ppm] [PROMPT.rgb]
//
// A drive starts from PROMPT.rgb: frames of raw pixels as `python examples/write_prompt.py` writes
// them from a clip that the model knows. Without it, from a painted street, which a trained model
// does not know: the drive then says so and soon shows something else.
//
// SIM_STREAM_ENDPOINT names another server; to one that asks for keys SIM_STREAM_KEY and
// SIM_STREAM_SERVER_KEY name the files of ClientOptions.

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

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

// Raw RGB frames, one after the other, of the size that the server takes.
std::vector<sim_stream::Image> read_prompt(const std::string& path,
                                           const sim_stream::ServerInfo& info) {
  const auto height = static_cast<std::size_t>(info.frame_shape[0]);
  const auto width = static_cast<std::size_t>(info.frame_shape[1]);
  const std::size_t bytes = height * width * 3;
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> raw{std::istreambuf_iterator<char>(file), {}};
  if (!file || raw.empty() || raw.size() % bytes != 0) {
    throw std::runtime_error(path + ": got " + std::to_string(raw.size()) +
                             " bytes; allowed: frames of " + std::to_string(bytes) + " bytes");
  }
  std::vector<sim_stream::Image> frames;
  for (std::size_t start = 0; start < raw.size(); start += bytes) {
    const auto first = raw.begin() + static_cast<std::ptrdiff_t>(start);
    frames.push_back({height, width, {first, first + static_cast<std::ptrdiff_t>(bytes)}});
  }
  return frames;
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

void drive(int frames, const std::string& out, const std::string& prompt) {
  sim_stream::ClientOptions options;
  options.key_file = environment("SIM_STREAM_KEY", "");
  options.server_key_file = environment("SIM_STREAM_SERVER_KEY", "");
  sim_stream::Client client(environment("SIM_STREAM_ENDPOINT", "tcp://127.0.0.1:5555"), options);
  const auto& info = client.info();
  std::cout << info.model_id << " at " << info.fps() << " fps\n";

  const std::vector<sim_stream::Image> painted(2, camera(info));
  auto session = client.open(prompt.empty() ? painted : read_prompt(prompt, info));
  if (const auto warning = session.prompt_warning(); !warning.empty()) {
    std::cout << "drive: " << warning << '\n';
  }
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
    drive(frames, argc > 2 ? argv[2] : "", argc > 3 ? argv[3] : "");
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "drive: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}
