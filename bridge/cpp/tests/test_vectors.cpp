// The committed bytes of tests/wire/vectors: what the client writes and reads, and what it refuses.

#include <doctest/doctest.h>

#include "expected.hpp"
#include "requests.hpp"
#include "sim_stream/errors.hpp"

using namespace sim_stream;
using namespace sim_stream::wire;

TEST_CASE("every request is written as in the vectors") {
  const Vectors vectors("requests");
  int written = 0;
  for (const Map& vector : vectors.list) {
    CAPTURE(vector.at("name").as<std::string>());
    const Map message = vector.at("message").as<Map>();
    if (vector.at("canonical").as<bool>()) {
      const std::string header =
          encode(request_of(message), message.at("rid").as<std::uint64_t>(), arrays_of(message));
      CHECK(header == parts_of(vector)[0]);
      ++written;
    }
  }
  CHECK(written > 10);
}

TEST_CASE("every reply is read as in the vectors") {
  const Vectors vectors("replies");
  for (const Map& vector : vectors.list) {
    CAPTURE(vector.at("name").as<std::string>());
    const Map message = vector.at("message").as<Map>();
    const Reply reply = receive(parts_of(vector));
    CHECK(reply.rid == message.at("rid").as<std::uint64_t>());
    check_arrays(reply.arrays, message);
    std::visit([&](const auto& body) { check_body(body, message); }, reply.body);
  }
}

TEST_CASE("every broken reply is refused") {
  const Vectors vectors("refused_replies");
  for (const Map& vector : vectors.list) {
    CAPTURE(vector.at("name").as<std::string>());
    CHECK_THROWS_AS(receive(parts_of(vector)), ProtocolError);
  }
}

TEST_CASE("a header of any bytes is read or refused, never worse") {
  const Vectors vectors("replies");
  std::uint32_t state = 20'240;
  const auto random = [&state](std::size_t below) {
    state = state * 1'664'525U + 1'013'904'223U;
    return (state >> 8) % below;
  };
  int refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string header = parts_of(vectors.list[random(vectors.list.size())])[0];
    for (std::size_t change = 0; change <= random(4); ++change) {
      header[random(header.size())] = static_cast<char>(random(256));
    }
    try {
      decode_reply(header);
    } catch (const ProtocolError&) {
      ++refused;
    }
  }
  CHECK(refused > 1'000);
}
