#include <msgpack.hpp>

#include <cstring>
#include <type_traits>

#include "codec.hpp"

namespace sim_stream::wire {
namespace {

class Writer {
 public:
  void map(std::size_t fields) { packer_.pack_map(static_cast<std::uint32_t>(fields)); }

  void list(std::size_t items) { packer_.pack_array(static_cast<std::uint32_t>(items)); }

  template <typename T>
  void field(std::string_view name, const T& value) {
    put(name);
    put(value);
  }

  void put(std::string_view text) {
    packer_.pack_str(static_cast<std::uint32_t>(text.size()));
    packer_.pack_str_body(text.data(), static_cast<std::uint32_t>(text.size()));
  }
  void put(const std::string& text) { put(std::string_view(text)); }
  void put(bool value) { value ? packer_.pack_true() : packer_.pack_false(); }
  void put(std::int64_t value) { packer_.pack_int64(value); }
  void put(std::uint64_t value) { packer_.pack_uint64(value); }

  // By hand: msgpack-cxx 4 writes whole numbers as integers, so the same field would change type.
  void put(double value) {
    std::uint64_t bits = 0;
    static_assert(sizeof bits == sizeof value);
    std::memcpy(&bits, &value, sizeof bits);
    char bytes[9] = {static_cast<char>(0xcb)};
    for (int i = 0; i < 8; ++i) {
      bytes[1 + i] = static_cast<char>((bits >> (56 - 8 * i)) & 0xff);
    }
    buffer_.write(bytes, sizeof bytes);
  }

  void put(const Scalars& inputs) {
    map(inputs.size());
    for (const auto& [name, input] : inputs) {
      put(name);
      std::visit([this](const auto& value) { put(value); }, input);
    }
  }
  void put(const ArraySpec& array) {
    map(4);
    field("name", array.name);
    field("dtype", array.dtype);
    field("shape", array.shape);
    field("nbytes", array.nbytes);
  }

  template <typename T>
  void put(const std::vector<T>& items) {
    list(items.size());
    for (const T& item : items) {
      put(item);
    }
  }
  template <typename T>
  void put(const std::optional<T>& value) {
    if (value) {
      put(*value);
    } else {
      packer_.pack_nil();
    }
  }

  [[nodiscard]] std::string bytes() const { return {buffer_.data(), buffer_.size()}; }

 private:
  msgpack::sbuffer buffer_;
  msgpack::packer<msgpack::sbuffer> packer_{buffer_};
};

constexpr std::size_t kCommonFields = 4;
constexpr std::size_t kStartFields = 4;

// A message's own fields, after the common ones.
struct Fields {
  Writer& out;
  std::uint64_t rid;
  const std::vector<ArraySpec>& arrays;

  void begin(std::string_view type, std::size_t own_fields) const {
    out.map(kCommonFields + own_fields);
    out.field("t", type);
    out.field("v", kVersion);
    out.field("rid", rid);
    out.field("arrays", arrays);
  }
  void start(const Start& start) const {
    out.field("seed", start.seed);
    out.field("inputs", start.inputs);
    out.field("prompt_inputs", start.prompt_inputs);
    out.field("options", start.options);
  }

  void operator()(const Hello& hello) const {
    begin("hello", 2);
    out.field("protocol_min", hello.protocol_min);
    out.field("protocol_max", hello.protocol_max);
  }
  void operator()(const Open& open) const {
    begin("open", kStartFields + 5);
    start(open.start);
    out.field("mode", open.mode);
    out.field("lookahead", open.lookahead);
    out.field("dt_us", open.dt_us);
    out.field("idempotency_key", open.idempotency_key);
    out.field("record", open.record);
  }
  void operator()(const Reset& reset) const {
    begin("reset", kStartFields + 1);
    start(reset.start);
    out.field("sid", reset.sid);
  }
  void operator()(const Step& step) const {
    begin("step", 5);
    out.field("sid", step.sid);
    out.field("step", step.step);
    out.field("inputs", step.inputs);
    out.field("sim_time_us", step.sim_time_us);
    out.field("deadline_ms", step.deadline_ms);
  }
  void operator()(const Fork& fork) const {
    begin("fork", 3);
    out.field("sid", fork.sid);
    out.field("seed", fork.seed);
    out.field("idempotency_key", fork.idempotency_key);
  }
  void operator()(const Resume& resume) const {
    begin("resume", 1);
    out.field("resume_token", resume.resume_token);
  }
  void operator()(const Close& close) const {
    begin("close", 2);
    out.field("sid", close.sid);
    out.field("idempotency_key", close.idempotency_key);
  }
  void operator()(const Heartbeat& heartbeat) const {
    begin("heartbeat", 3);
    out.field("sid", heartbeat.sid);
    out.field("client_send_ns", heartbeat.client_send_ns);
    out.field("awaiting", heartbeat.awaiting);
  }
};

}  // namespace

std::string encode(const Request& request, std::uint64_t rid,
                   const std::vector<ArraySpec>& arrays) {
  Writer out;
  std::visit(Fields{out, rid, arrays}, request);
  return out.bytes();
}

std::size_t characters(std::string_view text) {
  std::size_t count = 0;
  for (const char byte : text) {
    count += (static_cast<unsigned char>(byte) & 0xc0) != 0x80;  // not a continuation
  }
  return count;
}

}  // namespace sim_stream::wire
