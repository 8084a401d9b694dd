// The vectors of tests/wire/vectors, as the client's own types.

#pragma once

#include <doctest/doctest.h>
#include <msgpack.hpp>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "codec.hpp"

using Map = std::map<std::string, msgpack::object>;

// The vectors of one kind; the handle owns what they point to.
struct Vectors {
  explicit Vectors(const char* kind)
      : bytes(file()), handle(msgpack::unpack(bytes.data(), bytes.size())) {
    list = handle->as<Map>().at(kind).as<std::vector<Map>>();
    REQUIRE(list.size() > 0);
  }
  static std::string file() {
    std::ifstream stream(SIM_STREAM_VECTORS, std::ios::binary);
    REQUIRE_MESSAGE(stream.good(), "no " SIM_STREAM_VECTORS);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  [[nodiscard]] const Map& named(const std::string& name) const {
    for (const Map& vector : list) {
      if (vector.at("name").as<std::string>() == name) {
        return vector;
      }
    }
    FAIL("no vector ", name);
    return list.front();
  }
  std::string bytes;
  msgpack::object_handle handle;
  std::vector<Map> list;
};

inline std::vector<std::string> parts_of(const Map& vector) {
  std::vector<std::string> parts;
  for (const auto& part : vector.at("parts").as<std::vector<msgpack::object>>()) {
    parts.emplace_back(part.via.bin.ptr, part.via.bin.size);
  }
  return parts;
}

// As the connection reads a message.
inline sim_stream::wire::Reply receive(const std::vector<std::string>& parts) {
  sim_stream::wire::Reply reply = sim_stream::wire::decode_reply(parts.at(0));
  std::vector<std::size_t> sizes;
  for (std::size_t i = 1; i < parts.size(); ++i) {
    sizes.push_back(parts[i].size());
  }
  sim_stream::wire::check_parts(reply.arrays, sizes);
  return reply;
}

// The spec of the vectors' model.
inline sim_stream::StreamSpec vectors_spec() {
  const Vectors replies("replies");
  return std::get<sim_stream::ServerInfo>(receive(parts_of(replies.named("hello_ok"))).body).spec;
}

// A field, null being nullopt.
template <typename T>
std::optional<T> maybe(const Map& map, const char* name) {
  const auto& value = map.at(name);
  return value.is_nil() ? std::nullopt : std::optional(value.as<T>());
}

inline std::int64_t number(const Map& map, const char* name) {
  return map.at(name).as<std::int64_t>();
}

inline std::string text(const Map& map, const char* name) { return map.at(name).as<std::string>(); }

inline std::vector<sim_stream::wire::ArraySpec> arrays_of(const Map& message) {
  std::vector<sim_stream::wire::ArraySpec> arrays;
  for (const auto& item : message.at("arrays").as<std::vector<Map>>()) {
    arrays.push_back({text(item, "name"), text(item, "dtype"),
                      item.at("shape").as<std::vector<std::int64_t>>(), number(item, "nbytes")});
  }
  return arrays;
}
