// Models of other inputs than an action, and of several frames a step: tests/wire/toy_worlds.py's.

#include <doctest/doctest.h>
#include <signal.h>

#include "lossy_proxy.hpp"
#include "with_server.hpp"

namespace {

// What is where in a picture: everything the same.
std::vector<std::uint8_t> map_of(std::uint8_t id) { return std::vector<std::uint8_t>(24 * 32, id); }

ArrayView view(const std::vector<std::uint8_t>& map) { return {map.data(), {24, 32}}; }

Inputs seeing(const std::vector<std::uint8_t>& map) { return {{"semantic", view(map)}}; }

}  // namespace

// MapWorld: a map of classes with every step.
TEST_SUITE("map" * doctest::skip()) {
  TEST_CASE("hello says what a step takes") {
    Client client(endpoint());
    const auto& inputs = client.info().spec.step_inputs;
    REQUIRE(inputs.size() == 2);
    CHECK(inputs[0].name == "semantic");
    CHECK(inputs[0].required);
    const auto& semantic = std::get<ArrayField>(inputs[0].kind);
    CHECK(semantic.dtype == "|u1");
    CHECK(semantic.shape == std::vector<std::int64_t>{24, 32});
    CHECK(semantic.values == 16);
    CHECK_FALSE(inputs[1].required);
    CHECK(std::get<NumberField>(inputs[1].kind).clamped);
  }

  TEST_CASE("the same maps give the same frames, others do not") {
    Client client(endpoint());
    const auto road = map_of(1), field = map_of(2);
    auto session = client.open(prompt(client.info(), 1));
    auto same = client.open(prompt(client.info(), 1));
    auto other = client.open(prompt(client.info(), 1));
    for (int n = 0; n < 3; ++n) {
      const Chunk chunk = session.step({{"semantic", view(road)}, {"speed_mps", 8}});
      CHECK(chunk->image.height == 24);
      CHECK(chunk->image.width == 32);
      CHECK(same.step({{"semantic", view(road)}, {"speed_mps", 8}})->image.rgb == chunk->image.rgb);
      CHECK(other.step({{"semantic", view(field)}, {"speed_mps", 8}})->image.rgb !=
            chunk->image.rgb);
    }
  }

  TEST_CASE("a prompt may come with the maps that led to it") {
    Client client(endpoint());
    const auto road = map_of(1), field = map_of(2);
    OpenOptions options;
    options.prompt_inputs = {seeing(road), seeing(field)};
    auto session = client.open(prompt(client.info(), 2), options);
    CHECK(session.step(seeing(road))->step == 1);
    CHECK_THROWS_WITH_AS(client.open(prompt(client.info(), 1), options),
                         "prompt_inputs: got 2; allowed: none, or 1, one per frame", InvalidInput);
    options.prompt_inputs = {seeing(road), {}};
    CHECK_THROWS_WITH_AS(
        client.open(prompt(client.info(), 2), options),
        "prompt_inputs.semantic: got 1 of them; allowed: none, or 2, one per frame", InvalidInput);
  }

  TEST_CASE("a map that is missing, of another shape or type, or beyond its values is named") {
    Client client(endpoint());
    auto session = client.open(prompt(client.info(), 1));
    const std::string allowed = "; allowed: uint8 [24, 32], values below 16";
    const auto refused = [&](const Inputs& inputs) -> std::string {
      try {
        session.step(inputs);
      } catch (const InvalidInput& error) {
        return error.what();
      }
      return "";
    };
    const auto road = map_of(1), beyond = map_of(16);
    const std::vector<float> floats(24 * 32);
    CHECK(refused({}) == "inputs.semantic: got nothing" + allowed);
    CHECK(refused({{"semantic", ArrayView(road.data(), {32, 24})}}) ==
          "inputs.semantic: got uint8 [32, 24], values up to 1" + allowed);
    CHECK(refused({{"semantic", ArrayView(floats.data(), {24, 32})}}) ==
          "inputs.semantic: got float32 [24, 32]" + allowed);
    CHECK(refused(seeing(beyond)) ==
          "inputs.semantic: got uint8 [24, 32], values up to 16" + allowed);
    CHECK(session.step(seeing(road))->step == 1);
  }

  TEST_CASE("a step that is sent again has the map that it had") {
    Client direct(endpoint());
    const auto road = map_of(1);
    auto undisturbed = direct.open(prompt(direct.info(), 1));
    LossyProxy proxy(endpoint());
    Client client(proxy.endpoint(), impatient(2));
    auto session = client.open(prompt(client.info(), 1));
    SUBCASE("both replies lost") { proxy.lose_replies = 2; }
    SUBCASE("both requests lost") { proxy.lose_requests = 2; }
    auto mine = road;
    session.send_step(seeing(mine));
    session.send_step(seeing(mine));
    mine = map_of(2);
    for (int n = 1; n <= 2; ++n) {
      const Chunk chunk = session.receive();
      CHECK(chunk->step == n);
      CHECK(chunk->image.rgb == undisturbed.step(seeing(road))->image.rgb);
    }
    CHECK(proxy.lose_replies == 0);
    CHECK(proxy.lose_requests == 0);
  }
}

// MapWorld on a server that records, is killed and started again.
TEST_SUITE("map restart" * doctest::skip()) {
  TEST_CASE("a session survives that its server is killed, with the maps of its steps") {
    ClientOptions options;
    options.timeout = 3s;
    Client client(endpoint(), options);
    std::vector<std::vector<std::uint8_t>> maps;
    for (std::uint8_t id = 0; id < 6; ++id) {
      maps.push_back(map_of(id));
    }
    auto undisturbed = client.open(prompt(client.info(), 1));
    std::vector<Frame> expected;
    for (const auto& map : maps) {
      expected.push_back(undisturbed.step(seeing(map)).last());
    }
    auto session = client.open(prompt(client.info(), 1));
    std::vector<Frame> frames;
    for (std::size_t n = 0; n < 3; ++n) {
      frames.push_back(session.step(seeing(maps[n])).last());
    }
    REQUIRE(::kill(std::stoi(environment("SIM_STREAM_SERVER_PID")), SIGKILL) == 0);
    session.send_step(seeing(maps[3]));
    session.send_step(seeing(maps[4]));
    frames.push_back(session.receive().last());
    frames.push_back(session.receive().last());
    frames.push_back(session.step(seeing(maps[5])).last());
    CHECK(client.status().server_epoch != client.info().server_epoch);
    for (std::size_t n = 0; n < expected.size(); ++n) {
      CAPTURE(n);
      CHECK(frames[n].step == static_cast<std::int64_t>(n) + 1);
      CHECK(frames[n].image.rgb == expected[n].image.rgb);
    }
  }
}

// ClipWorld: five frames with every step, from no prompt frame.
TEST_SUITE("clip" * doctest::skip()) {
  TEST_CASE("five frames come with every step") {
    Client client(endpoint());
    CHECK(client.info().spec.frames_per_step == 5);
    auto session = client.open({});
    CHECK(session.first().empty());
    CHECK_FALSE(session.prompt_psnr_db().has_value());
    std::int64_t last_id = -1;
    for (int n = 1; n <= 3; ++n) {
      const Chunk chunk = session.step();
      REQUIRE(chunk.size() == 5);
      CHECK(chunk.committed_step == n);
      for (const Frame& frame : chunk) {
        CHECK(frame.step == n);
        CHECK((last_id < 0 || frame.frame_id == last_id + 1));
        last_id = frame.frame_id;
        CHECK(frame.image.height == 16);
        CHECK(frame.image.width == 24);
        CHECK(frame.image.rgb.size() == 16 * 24 * 3);
      }
      CHECK(chunk->frame_id == last_id);
    }
    CHECK(session.close().empty());
  }

  TEST_CASE("a session's choice counts, and one that there is not is named") {
    Client client(endpoint());
    OpenOptions options;
    options.inputs = {{"weather", "rain"}};
    options.options = {{"temperature", 0.5}};
    auto rain = client.open({}, options);
    options.inputs = {{"weather", "clear"}};
    auto clear = client.open({}, options);
    CHECK(rain.step()->image.rgb != clear.step()->image.rgb);
    options.inputs = {{"weather", "fog"}};
    CHECK_THROWS_WITH_AS(client.open({}, options),
                         "inputs.weather: got 'fog' (str); allowed: 'clear' or 'rain'",
                         InvalidInput);
    CHECK_THROWS_WITH_AS(client.open(prompt(client.info(), 1)),
                         doctest::Contains("frames: got uint8 [1, 16, 24, 3]"), InvalidInput);
  }

  TEST_CASE("a fork goes on alike, with a seed apart") {
    Client client(endpoint());
    OpenOptions options;
    options.seed = 7;
    auto session = client.open({}, options);
    session.step();
    auto twin = session.fork();
    auto other = session.fork(8);
    CHECK(twin.seed() == 7);
    CHECK(other.seed() == 8);
    const Chunk chunk = session.step();
    CHECK(twin.step()->image.rgb == chunk->image.rgb);
    CHECK(other.step()->image.rgb != chunk->image.rgb);
  }

  TEST_CASE("a reset to no frame starts the same stream anew") {
    Client client(endpoint());
    auto session = client.open({});
    const Chunk chunk = session.step();
    session.step();
    CHECK(session.reset({}).empty());
    const Chunk again = session.step();
    REQUIRE(again.size() == chunk.size());
    for (std::size_t n = 0; n < again.size(); ++n) {
      CHECK(again.frames[n].step == 1);
      CHECK(again.frames[n].image.rgb == chunk.frames[n].image.rgb);
    }
  }
}
