// A msgpack value read with bounds; whatever is not allowed becomes a ProtocolError that says where.

#pragma once

#include <msgpack.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "codec.hpp"
#include "sim_stream/errors.hpp"

namespace sim_stream::wire {

constexpr std::int64_t kI64Min = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kI64Max = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kI32Max = std::numeric_limits<std::int32_t>::max();

class Fields;

class Value {
 public:
  Value(const msgpack::object& object, std::string where)
      : object_(&object), where_(std::move(where)) {}

  [[nodiscard]] bool is_null() const { return object_->type == msgpack::type::NIL; }

  [[nodiscard]] std::int64_t integer(std::int64_t low, std::int64_t high) const {
    const bool positive = object_->type == msgpack::type::POSITIVE_INTEGER;
    require(positive || object_->type == msgpack::type::NEGATIVE_INTEGER, "an integer");
    const bool fits = !positive || object_->via.u64 <= static_cast<std::uint64_t>(kI64Max);
    const std::int64_t value = fits ? object_->via.i64 : 0;
    require(fits && low <= value && value <= high,
            "an integer, " + std::to_string(low) + ".." + std::to_string(high));
    return value;
  }
  [[nodiscard]] std::int64_t count() const { return integer(0, kI64Max); }
  [[nodiscard]] std::int64_t i64() const { return integer(kI64Min, kI64Max); }
  [[nodiscard]] std::uint64_t u64() const {
    require(object_->type == msgpack::type::POSITIVE_INTEGER, "an integer, 0..2^64-1");
    return object_->via.u64;
  }
  [[nodiscard]] double number() const {
    if (object_->type == msgpack::type::POSITIVE_INTEGER) {
      return static_cast<double>(object_->via.u64);
    }
    if (object_->type == msgpack::type::NEGATIVE_INTEGER) {
      return static_cast<double>(object_->via.i64);
    }
    require(object_->type == msgpack::type::FLOAT64 || object_->type == msgpack::type::FLOAT32,
            "a number");
    return object_->via.f64;
  }
  [[nodiscard]] double finite() const {
    const double value = number();
    require(std::isfinite(value), "a finite number");
    return value;
  }
  [[nodiscard]] bool boolean() const {
    require(object_->type == msgpack::type::BOOLEAN, "true or false");
    return object_->via.boolean;
  }
  [[nodiscard]] std::string text(std::size_t max_characters) const {
    require(object_->type == msgpack::type::STR, "a string");
    const std::string_view view(object_->via.str.ptr, object_->via.str.size);
    require(characters(view) <= max_characters,
            "at most " + std::to_string(max_characters) + " characters");
    return std::string(view);
  }
  [[nodiscard]] std::string name() const { return text(64); }
  [[nodiscard]] std::string one_of(const std::set<std::string>& allowed) const {
    const std::string found = name();
    std::string all;
    for (const std::string& one : allowed) {
      all += (all.empty() ? "" : ", ") + one;
    }
    require(allowed.count(found) == 1, all);
    return found;
  }
  [[nodiscard]] std::vector<Value> items(std::size_t max_items) const {
    require(object_->type == msgpack::type::ARRAY && object_->via.array.size <= max_items,
            "a list of at most " + std::to_string(max_items));
    std::vector<Value> values;
    for (std::uint32_t i = 0; i < object_->via.array.size; ++i) {
      values.emplace_back(object_->via.array.ptr[i], where_ + "[" + std::to_string(i) + "]");
    }
    return values;
  }
  // A map's values by name; of equal names the last counts.
  [[nodiscard]] std::map<std::string, Value> entries(std::size_t max_entries) const {
    require(object_->type == msgpack::type::MAP && object_->via.map.size <= max_entries,
            "a map of at most " + std::to_string(max_entries));
    std::map<std::string, Value> values;
    for (std::uint32_t i = 0; i < object_->via.map.size; ++i) {
      const auto& entry = object_->via.map.ptr[i];
      const std::string key = Value(entry.key, where_ + ".key").name();
      values.insert_or_assign(key, Value(entry.val, where_ + "." + key));
    }
    return values;
  }
  [[nodiscard]] Fields fields() const;

  void require(bool allowed, const std::string& what) const {
    if (!allowed) {
      throw ProtocolError(where_ + ": allowed: " + what);
    }
  }

 private:
  friend class Fields;
  const msgpack::object* object_;
  std::string where_;
};

// A map with string keys. Fields that nobody asks for are ignored.
class Fields {
 public:
  explicit Fields(const Value& value) : map_(value) {
    value.require(value.object_->type == msgpack::type::MAP, "a map");
    for (std::uint32_t i = 0; i < map_.object_->via.map.size; ++i) {
      value.require(map_.object_->via.map.ptr[i].key.type == msgpack::type::STR, "string keys");
    }
  }

  [[nodiscard]] Value required(std::string_view name) const {
    const auto found = find(name);
    map_.require(found.has_value(), "a map with " + std::string(name));
    return *found;
  }

  // The field when it is there, else the fallback; null is no absence.
  template <typename T>
  [[nodiscard]] T get_or(std::string_view name, T fallback, T (Value::*read)() const) const {
    const auto found = find(name);
    return found ? ((*found).*read)() : fallback;
  }

  // The field unless it is absent or null.
  [[nodiscard]] std::optional<Value> nullable(std::string_view name) const {
    const auto found = find(name);
    return found && !found->is_null() ? found : std::nullopt;
  }
  [[nodiscard]] std::optional<double> finite_or_null(std::string_view name) const {
    const auto found = nullable(name);
    return found ? std::optional(found->finite()) : std::nullopt;
  }

  [[nodiscard]] std::optional<Value> find(std::string_view name) const {
    const auto& map = map_.object_->via.map;
    for (std::uint32_t i = map.size; i-- > 0;) {  // of equal keys the last counts
      const auto& key = map.ptr[i].key.via.str;
      if (name == std::string_view(key.ptr, key.size)) {
        return Value(map.ptr[i].val, map_.where_ + "." + std::string(name));
      }
    }
    return std::nullopt;
  }

 private:
  Value map_;
};

inline Fields Value::fields() const { return Fields(*this); }

}  // namespace sim_stream::wire
