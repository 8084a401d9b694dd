// Inputs on their way out and frames on their way in, held to a model's spec; without a server.

#include <doctest/doctest.h>

#include <cstring>

#include "chunk.hpp"
#include "pack.hpp"
#include "requests.hpp"
#include "sim_stream/errors.hpp"
#include "values.hpp"

using namespace sim_stream;

namespace {

// A vector's `inputs` and arrays as a caller gives them. The parts must stay.
Inputs inputs_of(const Map& message, const std::vector<std::string>& parts) {
  Inputs inputs;
  for (const auto& [name, value] : scalars_of(message.at("inputs"))) {
    std::visit([&, key = name](const auto& scalar) { inputs[key] = scalar; }, value);
  }
  const auto arrays = arrays_of(message);
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const void* data = parts[i + 1].data();
    inputs[arrays[i].name] =
        arrays[i].dtype == "|u1"
            ? ArrayView(static_cast<const std::uint8_t*>(data), arrays[i].shape)
            : ArrayView(static_cast<const float*>(data), arrays[i].shape);
  }
  return inputs;
}

std::string said(const std::string& where, const std::vector<Field>& fields, const Inputs& inputs) {
  try {
    check_values(where, fields, inputs);
  } catch (const InvalidInput& error) {
    return error.what();
  }
  return "";
}

template <typename Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// The bytes of a vector's images and of its map.
std::vector<std::uint8_t> counting(std::size_t count, unsigned below = 251) {
  std::vector<std::uint8_t> bytes(count);
  for (std::size_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<std::uint8_t>(i % 251 % below);
  }
  return bytes;
}

std::vector<Image> images(std::size_t count) {
  const auto bytes = counting(count * 768);
  std::vector<Image> frames;
  for (std::size_t i = 0; i < count; ++i) {
    const auto first = bytes.begin() + static_cast<std::ptrdiff_t>(i * 768);
    frames.push_back({16, 16, {first, first + 768}});
  }
  return frames;
}

void check_written(const wire::Request& request, const wire::OutgoingArrays& arrays,
                   const Map& vector) {
  const auto parts = parts_of(vector);
  std::vector<wire::ArraySpec> specs;
  REQUIRE(arrays.size() + 1 == parts.size());
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    specs.push_back(arrays[i].spec);
    CHECK(std::string(arrays[i].bytes.begin(), arrays[i].bytes.end()) == parts[i + 1]);
  }
  const auto rid = vector.at("message").as<Map>().at("rid").as<std::uint64_t>();
  CHECK(wire::encode(request, rid, specs) == parts[0]);
}

// A reply of `frames` frames whose images are the bytes that count up.
Received reply_of(std::size_t frames, std::vector<std::int64_t> shape, std::string dtype = "|u1",
                  std::string name = "images") {
  Received received;
  const auto bytes = counting(frames * 768);
  received.reply.arrays = {{std::move(name), std::move(dtype), std::move(shape), 0}};
  received.parts = {bytes};
  return received;
}

std::vector<FrameInfo> infos(std::int64_t count) {
  std::vector<FrameInfo> frames(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    frames[static_cast<std::size_t>(i)].frame_id = i;
  }
  return frames;
}

}  // namespace

TEST_CASE("of every value the same is said as by the server") {
  const StreamSpec spec = vectors_spec();
  const Vectors vectors("checked_values");
  int allowed = 0;
  for (const Map& vector : vectors.list) {
    CAPTURE(text(vector, "name"));
    const auto parts = parts_of(vector);
    const auto handle = msgpack::unpack(parts[0].data(), parts[0].size());
    const std::string fields = text(vector, "fields");
    const auto& list = fields == "options"       ? spec.options
                       : fields == "step_inputs" ? spec.step_inputs
                                                 : spec.session_inputs;
    const Inputs inputs = inputs_of(handle->as<Map>(), parts);
    CHECK(said(text(vector, "where"), list, inputs) == text(vector, "says"));
    allowed += text(vector, "says").empty();
  }
  CHECK(allowed > 5);
  CHECK(said("inputs", {}, {{"x", 1}}) ==
        "inputs.x: got 1.0 (float); allowed: nothing: this model takes none");
}

TEST_CASE("an open with everything is written as in the vectors, arrays and all") {
  const StreamSpec spec = vectors_spec();
  const Vectors vectors("requests");
  const float heights[] = {-1.5F, -1.0F, -0.5F, 0.0F, 0.5F, 1.0F};
  const auto ids = counting(32, 16);
  OpenOptions options;
  options.seed = ~std::uint64_t{0};
  options.inputs = {
      {"text", ""}, {"weather", "rain"}, {"heights", ArrayView(heights, {2, 3})}};
  options.options = {{"strategy", "jacobi"}, {"temperature", 10}, {"top_k", 2'147'483'647}};
  options.prompt_inputs = {{{"speed_mps", 0}}, Action{8.0, 0.125}};
  options.prompt_inputs[0]["semantic"] = ArrayView(ids.data(), {4, 4});
  options.prompt_inputs[1]["semantic"] = ArrayView(ids.data() + 16, {4, 4});
  const PackedStart start = pack_start(images(2), options, spec);
  check_written(wire::Open{start.fields, "lockstep", 0, 250'000, std::string(64, 'k'), false},
                start.arrays, vectors.named("open with everything"));

  const PackedStart empty = pack_start({}, {}, spec);
  wire::Open request;
  request.start = empty.fields;
  check_written(request, empty.arrays, vectors.named("open from no frame"));
}

TEST_CASE("a step with an array is written as in the vectors") {
  const Vectors vectors("requests");
  const auto ids = counting(16);
  const PackedStep step = pack_step(
      {{"speed_mps", 8}, {"semantic", ArrayView(ids.data(), {4, 4})}}, vectors_spec());
  check_written(wire::Step{"0011223344556677", 3, step.inputs, {}, {}}, step.arrays,
                vectors.named("step with an array"));
}

TEST_CASE("what a start may not be is said before anything is sent") {
  const StreamSpec spec = vectors_spec();
  StartOptions options;
  const auto pack = [&](std::size_t frames) {
    return refusal([&] { pack_start(images(frames), options, spec); });
  };
  CHECK(pack(5) == "");
  CHECK(pack(6) ==
        "frames: got uint8 [6, 16, 16, 3], values up to 250; allowed: uint8 [0..5, 16, 16, 3]");
  auto frames = images(2);
  frames[1].rgb.pop_back();
  CHECK(refusal([&] { pack_start(frames, options, spec); }) ==
        "frames[1]: got 16 x 16, 767 bytes; allowed: uint8 [0..5, 16, 16, 3]");

  options.prompt_inputs = {Action{8.0, 0.125}};
  CHECK(pack(2) == "prompt_inputs: got 1; allowed: none, or 2, one per frame");
  options.prompt_inputs = {Action{}, {}};
  CHECK(pack(2) == "prompt_inputs[1].speed_mps: got nothing; allowed: a finite number; 0..32 m/s, "
                   "clamped beyond");
  const auto ids = counting(16);
  options.prompt_inputs = {Action{}, Action{}};
  options.prompt_inputs[0]["semantic"] = ArrayView(ids.data(), {4, 4});
  CHECK(pack(2) == "prompt_inputs.semantic: got 1 of them; allowed: none, or 2, one per frame");

  StreamSpec needy = spec;
  needy.step_inputs[0].required = true;
  options.prompt_inputs = {Action{}, Action{}};
  CHECK(refusal([&] { pack_start(images(2), options, needy); }) == "");
  CHECK(refusal([&] { pack_step(Action{}, needy); }) ==
        "inputs.semantic: got nothing; allowed: uint8 [4, 4], values below 16");

  CHECK(refusal([&] { check_lookahead(2, spec); }) ==
        "lookahead: got 2; allowed: 0 or 1 or none set");
  CHECK(refusal([&] { check_lookahead(1, spec); }) == "");
}

TEST_CASE("frames come apart, each with its own pixels") {
  const StreamSpec spec = vectors_spec();
  const auto expected = images(5);
  const Chunk five = make_chunk(reply_of(5, {5, 16, 16, 3}), infos(5), 2, {}, spec);
  REQUIRE(five.size() == 5);
  std::size_t n = 0;
  for (const Frame& frame : five) {
    CHECK(frame.frame_id == static_cast<std::int64_t>(n));
    CHECK(frame.image.rgb == expected[n++].rgb);
  }
  CHECK(five->frame_id == 4);
  CHECK(five.committed_step == 2);
  CHECK(make_chunk(reply_of(1, {1, 16, 16, 3}), infos(1), 2, {}, spec)->image.rgb ==
        expected[0].rgb);

  Received nothing;
  const Chunk none = make_chunk(std::move(nothing), {}, 0, {}, spec);
  CHECK(none.empty());
  CHECK_THROWS_AS(static_cast<void>(none.last()), std::out_of_range);
  CHECK_NOTHROW(require_frames({}, false));
  CHECK_THROWS_AS(require_frames({}, true), ProtocolError);
}

TEST_CASE("images that are not what the server said of its model are refused") {
  const StreamSpec spec = vectors_spec();
  const auto chunk = [&](Received&& received, std::int64_t frames) {
    return refusal([&] { make_chunk(std::move(received), infos(frames), 0, {}, spec); });
  };
  const std::string one = "; allowed: |u1 [1, 16, 16, 3]";
  CHECK(chunk({}, 1) == "reply.images: got nothing" + one);
  CHECK(chunk(reply_of(1, {1, 16, 16, 3}, "|u1", "image"), 1) == "reply.images: got nothing" + one);
  CHECK(chunk(reply_of(2, {2, 16, 16, 3}), 1) == "reply.images: got |u1 [2, 16, 16, 3]" + one);
  CHECK(chunk(reply_of(1, {16, 16, 3}), 1) == "reply.images: got |u1 [16, 16, 3]" + one);
  CHECK(chunk(reply_of(1, {1, 8, 32, 3}), 1) == "reply.images: got |u1 [1, 8, 32, 3]" + one);
  CHECK(chunk(reply_of(4, {1, 16, 16, 3}, "<f4"), 1) == "reply.images: got <f4 [1, 16, 16, 3]" + one);
  CHECK(chunk(reply_of(1, {1, 16, 16, 3}), 5) ==
        "reply.images: got |u1 [1, 16, 16, 3]; allowed: |u1 [5, 16, 16, 3]");
  CHECK(chunk(reply_of(1, {1, 16, 16, 3}), 0) ==
        "reply.images: got |u1 [1, 16, 16, 3]; allowed: |u1 [0, 16, 16, 3]");
}
