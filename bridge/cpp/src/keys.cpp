#include "keys.hpp"

#include <sys/stat.h>
#include <zmq.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <string_view>

namespace sim_stream {
namespace {

constexpr std::size_t kKeyLength = 40;

struct KeyFile {
  std::string public_key;
  std::string secret_key;
};

[[noreturn]] void refuse(const std::string& field, const std::string& got,
                         const std::string& allowed) {
  throw InvalidInput(field + ": got " + got + "; allowed: " + allowed);
}

// Without blanks and quotes around it.
std::string_view stripped(std::string_view text) {
  constexpr std::string_view kAround = " \t\r\"'";
  const std::size_t begin = text.find_first_not_of(kAround);
  if (begin == std::string_view::npos) {
    return {};
  }
  return text.substr(begin, text.find_last_not_of(kAround) - begin + 1);
}

// zmq.auth's certificates: lines `public-key = "..."` and `secret-key = "..."`, others mean nothing.
KeyFile read_keys(const std::string& field, const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    refuse(field, path, "a key file that can be read");
  }
  KeyFile keys;
  for (std::string line; std::getline(file, line);) {
    const std::size_t equals = line.find('=');
    const std::string_view name = stripped(std::string_view(line).substr(0, equals));
    if (equals == std::string::npos || (name != "public-key" && name != "secret-key")) {
      continue;
    }
    std::string& key = name == "public-key" ? keys.public_key : keys.secret_key;
    const std::string value(stripped(std::string_view(line).substr(equals + 1)));
    std::array<std::uint8_t, 32> raw{};
    if (!key.empty() || value.size() != kKeyLength ||
        zmq_z85_decode(raw.data(), value.c_str()) == nullptr) {
      refuse(field, path, "one key of each kind, of 40 characters of Z85");
    }
    key = value;
  }
  if (keys.public_key.empty()) {
    refuse(field, path, "a file with a public-key line, as `sim-stream keygen` writes it");
  }
  return keys;
}

void require_private(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || (status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    refuse("key_file", path + ", which others can read", "mode 0600; chmod 600 " + path);
  }
}

void require_pair(const std::string& path, const KeyFile& keys) {
  std::array<char, kKeyLength + 1> derived{};
  if (keys.secret_key.empty() ||
      zmq_curve_public(derived.data(), keys.secret_key.c_str()) != 0 ||
      keys.public_key != derived.data()) {
    refuse("key_file", path, "a secret key with the public one that belongs to it");
  }
}

}  // namespace

std::optional<ClientKeys> load_keys(const ClientOptions& options) {
  const std::string& key_file = options.key_file;
  const std::string& server_file = options.server_key_file;
  if (key_file.empty() && server_file.empty()) {
    return std::nullopt;
  }
  if (key_file.empty() || server_file.empty()) {
    refuse(key_file.empty() ? "key_file" : "server_key_file", "none",
           "both: this client's secret key file and the server's public one");
  }
  if (zmq_has("curve") == 0) {
    refuse("key_file", key_file, "none: this libzmq was built without CURVE");
  }
  const KeyFile own = read_keys("key_file", key_file);
  require_private(key_file);
  require_pair(key_file, own);
  const KeyFile server = read_keys("server_key_file", server_file);
  if (!server.secret_key.empty()) {
    refuse("server_key_file", server_file + ", which holds a secret key", "the server's .pub file");
  }
  return ClientKeys{own.public_key, own.secret_key, server.public_key};
}

}  // namespace sim_stream
