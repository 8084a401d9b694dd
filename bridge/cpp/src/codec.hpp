// Messages to msgpack bytes and back, bounded. Does not know what a message means.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "messages.hpp"

namespace sim_stream::wire {

// The header of a request.
std::string encode(const Request& request, std::uint64_t rid, const std::vector<ArraySpec>& arrays);

// A reply, fully checked but for its parts. Throws ProtocolError.
Reply decode_reply(std::string_view header);

// Checks the parts' sizes against what the reply says of them. Throws ProtocolError.
void check_parts(const std::vector<ArraySpec>& arrays, const std::vector<std::size_t>& part_bytes);

// Code points of UTF-8, which is what the protocol's limits count.
std::size_t characters(std::string_view text);

}  // namespace sim_stream::wire
