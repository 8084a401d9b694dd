// Drives a sim-stream server: a street, a few seconds of steering, the last frame as an image.
//
//     sim-stream serve --bind tcp://127.0.0.1:5555
//     drive [FRAMES] [OUT.ppm] [PROMPT.rgb] [ENDPOINT]
//
// A drive starts from PROMPT.rgb: frames of raw pixels as `python examples/write_prompt.py` writes
// them from a clip that the model knows. Without it, from a painted street, which a trained model
// does not know: the drive then says so and soon shows something else.
//
// Without ENDPOINT it drives the server that SIM_STREAM_ENDPOINT names; to one that asks for keys
// SIM_STREAM_KEY and SIM_STREAM_SERVER_KEY name the files of ClientOptions.

#include <algorithm>
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

constexpr const char* kDefaultEndpoint = "tcp://127.0.0.1:5555";
constexpr const char* kUsage =
    "usage: drive [FRAMES] [OUT.ppm] [PROMPT.rgb] [ENDPOINT]\n"
    "\n"
    "Drives a sim-stream server and writes the last frame. What is left out is as in brackets:\n"
    "  FRAMES      how many frames to predict (20)\n"
    "  OUT.ppm     where the last one goes (nowhere)\n"
    "  PROMPT.rgb  frames to start from, by examples/write_prompt.py (a painted road)\n"
    "  ENDPOINT    the server, as tcp://HOST:PORT, the last of the arguments\n"
    "              (SIM_STREAM_ENDPOINT, else tcp://127.0.0.1:5555)\n"
    "SIM_STREAM_KEY and SIM_STREAM_SERVER_KEY name the key files for a server that asks for keys.\n";

// Throws std::invalid_argument.
int frames_of(const std::string& text) {
  std::size_t read = 0;
  int frames = 0;
  try {
    frames = std::stoi(text, &read);
  } catch (const std::exception&) {  // no digits, or too many
    read = 0;
  }
  if (read != text.size() || text.empty() || frames < 1) {
    throw std::invalid_argument("FRAMES: got " + text + "; allowed: an integer, 1 or more");
  }
  return frames;
}

// Stands in for a simulator's camera: sky, grass and a grey road that narrows to the horizon.
sim_stream::Image camera(const sim_stream::ServerInfo& info) {
  const auto height = static_cast<std::size_t>(info.spec.frame_shape[0]);
  const auto width = static_cast<std::size_t>(info.spec.frame_shape[1]);
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
  const auto height = static_cast<std::size_t>(info.spec.frame_shape[0]);
  const auto width = static_cast<std::size_t>(info.spec.frame_shape[1]);
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

// Of an action what the model takes.
sim_stream::Inputs steering(const sim_stream::StreamSpec& spec, double yaw_rate_radps) {
  sim_stream::Inputs inputs;
  for (const auto& [name, input] : sim_stream::Inputs(sim_stream::Action{8.0, yaw_rate_radps})) {
    if (spec.takes(name)) {
      inputs[name] = input;
    }
  }
  return inputs;
}

std::string environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : otherwise;
}

void drive(int frames, const std::string& out, const std::string& prompt,
           const std::string& endpoint) {
  sim_stream::ClientOptions options;
  options.key_file = environment("SIM_STREAM_KEY", "");
  options.server_key_file = environment("SIM_STREAM_SERVER_KEY", "");
  sim_stream::Client client(endpoint, options);
  const auto& info = client.info();
  std::cout << info.spec.model_id << " at " << info.spec.fps() << " fps\n";

  const auto [least, most] = info.spec.prompt_frames;
  const auto count = static_cast<std::size_t>(std::clamp<std::int64_t>(2, least, most));
  const std::vector<sim_stream::Image> painted(count, camera(info));
  auto session = client.open(prompt.empty() ? painted : read_prompt(prompt, info));
  if (const auto warning = session.prompt_warning(); !warning.empty()) {
    std::cout << "drive: " << warning << '\n';
  }
  sim_stream::Chunk chunk = session.first();
  for (int n = 1; n <= frames; ++n) {
    chunk = session.step(steering(info.spec, 0.2 * std::sin(0.5 * n)));
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(chunk.round_trip);
    std::cout << "frame " << chunk->frame_id << " in " << took.count() << " ms\n";
  }
  if (auto last = session.close(); !last.empty()) {
    chunk = last;
  }
  if (!out.empty()) {
    write_ppm(out, chunk->image);
    std::cout << "wrote " << out << " (frame " << chunk->frame_id << ")\n";
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  for (const std::string& argument : arguments) {
    if (argument == "-h" || argument == "--help") {
      std::cout << kUsage;
      return EXIT_SUCCESS;
    }
  }
  try {
    const auto is_endpoint = [](const std::string& argument) {
      return argument.find("://") != std::string::npos;
    };
    std::string endpoint = environment("SIM_STREAM_ENDPOINT", kDefaultEndpoint);
    if (!arguments.empty() && is_endpoint(arguments.back())) {
      endpoint = arguments.back();
      arguments.pop_back();
    }
    arguments.resize(std::max<std::size_t>(arguments.size(), 3));
    if (arguments.size() > 3) {
      throw std::invalid_argument("got one argument too many, " + arguments[3] + "\n" + kUsage);
    }
    drive(arguments[0].empty() ? 20 : frames_of(arguments[0]), arguments[1], arguments[2], endpoint);
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "drive: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}
