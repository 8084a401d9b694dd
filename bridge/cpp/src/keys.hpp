// A client's CURVE keys, from the files that `sim-stream keygen` writes. Knows no sockets.

#pragma once

#include <optional>
#include <string>

#include "sim_stream/client.hpp"

namespace sim_stream {

// All as 40 characters of Z85.
struct ClientKeys {
  std::string public_key;
  std::string secret_key;
  std::string server_public_key;
};

// nullopt where the options name no files. Throws InvalidInput.
std::optional<ClientKeys> load_keys(const ClientOptions& options);

}  // namespace sim_stream
