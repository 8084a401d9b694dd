// The client against a running server of a model that takes an action: the toy's or the pocket model's.

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "with_server.hpp"

namespace {

// What a session has that chooses nothing.
Inputs defaults(const StreamSpec& spec) {
  Inputs options;
  for (const Field& field : spec.options) {
    if (const auto* number = std::get_if<NumberField>(&field.kind); number && number->by_default) {
      options[field.name] = *number->by_default;
    }
    if (const auto* choice = std::get_if<ChoiceField>(&field.kind); choice && choice->by_default) {
      options[field.name] = *choice->by_default;
    }
  }
  return options;
}

}  // namespace

TEST_CASE("a prompt that the model cannot show is named, at the opening, in a fork, after a reset") {
  Client client(endpoint());
  const auto& info = client.info();
  REQUIRE(info.spec.prompt_psnr_min_db.has_value());
  REQUIRE(info.spec.camera.has_value());
  CHECK(info.spec.camera->field_of_view_deg == 66.0);
  const auto side = static_cast<std::size_t>(info.spec.frame_shape[0]);
  const Image grey{side, side, std::vector<std::uint8_t>(side * side * 3, 128)};

  auto session = client.open({grey});
  REQUIRE(session.prompt_psnr_db().has_value());
  CHECK(*session.prompt_psnr_db() < *info.spec.prompt_psnr_min_db);
  CHECK(session.prompt_warning() ==
        "the model cannot show this prompt: 14.9 dB, its own world 28 dB or more; expect the drive "
        "to collapse");
  CHECK(session.fork().prompt_psnr_db() == session.prompt_psnr_db());

  const auto before = session.prompt_psnr_db();
  session.reset(prompt(info));
  CHECK(session.prompt_psnr_db() != before);
  session.reset({grey});
  CHECK(session.prompt_psnr_db() == before);
}

TEST_CASE("hello says what runs") {
  Client client(endpoint());
  const StreamSpec& spec = client.info().spec;
  CHECK(client.info().protocol == 2);
  CHECK(client.info().server_epoch.size() > 0);
  CHECK(spec.fps() == 4.0);
  CHECK(spec.takes("speed_mps"));
  CHECK_FALSE(spec.takes("wings"));
  REQUIRE(spec.step_inputs.size() == 2);
  const auto& speed = std::get<NumberField>(spec.step_inputs[0].kind);
  CHECK(speed.clamped);
  CHECK(speed.taken == "end");
  CHECK(std::get<NumberField>(spec.step_inputs[1].kind).unit == "rad/s");
}

TEST_CASE("a drive: every frame comes once, in order, the last with the close") {
  Client client(endpoint());
  OpenOptions options;
  options.seed = std::numeric_limits<std::uint64_t>::max();
  options.options = defaults(client.info().spec);
  CHECK(options.options.size() > 0);
  options.prompt_inputs = {{}, kLeft};
  auto session = client.open(prompt(client.info()), options);
  CHECK(session.seed() == options.seed);
  CHECK(session.first()->frame_id == 0);
  CHECK_FALSE(session.first()->final);
  for (int n = 1; n <= 3; ++n) {
    const Chunk chunk = session.step(kLeft, {n * 250'000, std::nullopt});
    REQUIRE(chunk.size() == 1);
    CHECK(chunk.committed_step == n);
    CHECK(chunk.round_trip > 0ns);
    const Frame& frame = chunk.last();
    CHECK(frame.step == n);
    CHECK(frame.frame_id == n - 1);
    CHECK(frame.sim_time_us == n * 250'000);
    CHECK(frame.seed == options.seed);
    CHECK(static_cast<std::int64_t>(frame.image.height) == client.info().spec.frame_shape[0]);
    CHECK(frame.image.rgb.size() == frame.image.height * frame.image.width * 3);
    CHECK(frame.timings_ns.count("world_model") == 1);
  }
  CHECK(session.status().committed_step == 3);
  const auto last = session.close();
  REQUIRE(last.size() == 1);
  CHECK(last->frame_id == 3);
  CHECK(session.close()->frame_id == 3);
  CHECK_THROWS_AS(session.step(), SessionClosed);
}

TEST_CASE("without lookahead a frame comes at once") {
  Client client(endpoint());
  OpenOptions options;
  options.lookahead = 0;
  auto session = client.open(prompt(client.info(), 1), options);
  CHECK(session.step()->frame_id == 1);
  CHECK(session.close().empty());
}

TEST_CASE("two steps in flight are answered in order") {
  Client client(endpoint());
  const auto expected = undisturbed(client, 2);
  auto session = client.open(prompt(client.info()));
  CHECK(session.send_step(kLeft) == 1);
  CHECK(session.send_step(kLeft) == 2);
  CHECK_THROWS_AS(session.send_step(), InvalidInput);
  CHECK_THROWS_AS(session.step(), InvalidInput);
  CHECK(session.receive()->image.rgb == expected[0].image.rgb);
  CHECK(session.receive()->image.rgb == expected[1].image.rgb);
  CHECK_THROWS_AS(session.receive(), InvalidInput);
}

TEST_CASE("a fork continues alike and apart") {
  Client client(endpoint());
  auto session = client.open(prompt(client.info()));
  session.step(kLeft);
  auto twin = session.fork();
  CHECK(twin.sid() != session.sid());
  CHECK(session.step(kLeft)->image.rgb == twin.step(kLeft)->image.rgb);
  twin.step(Action{8.0, -0.25});
  CHECK(twin.step()->image.rgb != session.step(kLeft)->image.rgb);
}

TEST_CASE("in realtime steps that come too fast give way to the newest") {
  Client client(endpoint());
  OpenOptions options;
  options.realtime = true;
  auto session = client.open(prompt(client.info()), options);
  const int steps = 12;
  for (int n = 1; n <= steps; ++n) {
    session.send_step(kLeft);
  }
  std::vector<Frame> frames;
  while (session.in_flight() > 0) {
    frames.push_back(session.receive().last());
  }
  REQUIRE(frames.size() >= 1);
  CHECK(frames.size() < steps);
  CHECK(frames.back().step == steps);
  CHECK(frames.back().dropped == steps - static_cast<std::int64_t>(frames.size()));
  const auto expected = undisturbed(client, static_cast<int>(frames.size()));
  for (std::size_t n = 0; n < frames.size(); ++n) {
    CHECK(frames[n].image.rgb == expected[n].image.rgb);
  }
}

TEST_CASE("a reset starts the same stream anew") {
  Client client(endpoint());
  auto session = client.open(prompt(client.info()));
  const Chunk first = session.step(kLeft);
  session.step();
  CHECK(session.reset(prompt(client.info()))->step == 0);
  const Chunk again = session.step(kLeft);
  CHECK(again->step == 1);
  CHECK(again->image.rgb == first->image.rgb);
}

TEST_CASE("the end of a session tells the server") {
  Client client(endpoint());
  REQUIRE(sessions_become(client, 0));  // those of the other tests
  {
    auto session = client.open(prompt(client.info()));
    CHECK(client.status().sessions == 1);
  }
  CHECK(sessions_become(client, 0));
}

TEST_CASE("mistakes are refused before anything is sent") {
  Client client(endpoint());
  auto frames = prompt(client.info());
  CHECK_THROWS_WITH_AS(client.open({}), doctest::Contains("frames: got uint8 [0, "), InvalidInput);
  OpenOptions options;
  options.prompt_inputs = {kLeft};
  CHECK_THROWS_WITH_AS(client.open(frames, options), doctest::Contains("prompt_inputs: got 1"),
                       InvalidInput);
  options = {};
  options.options = {{"wings", 2}};
  CHECK_THROWS_WITH_AS(client.open(frames, options), doctest::Contains("options.wings: got 2.0"),
                       InvalidInput);
  options = {};
  options.lookahead = 2;
  CHECK_THROWS_WITH_AS(client.open(frames, options), doctest::Contains("lookahead: got 2"),
                       InvalidInput);
  frames[1].rgb.pop_back();
  CHECK_THROWS_WITH_AS(client.open(frames), doctest::Contains("bytes; allowed"), InvalidInput);
  auto session = client.open(prompt(client.info()));
  CHECK_THROWS_WITH_AS(session.step(Action{std::nan(""), 0.0}),
                       doctest::Contains("inputs.speed_mps: got nan"), InvalidInput);
  CHECK(session.step(kLeft)->step == 1);
}

TEST_CASE("what the server refuses says why and leaves the session as it was") {
  Client client(endpoint());
  auto session = client.open(prompt(client.info()));
  OpenOptions options;
  options.record = true;
  try {
    client.open(prompt(client.info()), options);
    FAIL("neither the toy nor the pocket model is recorded here");
  } catch (const RemoteError& error) {
    CHECK(error.code() == "LIMIT");
    CHECK_FALSE(error.retryable());
    CHECK(error.committed_step() == -1);
  }
  CHECK(session.step(kLeft)->step == 1);
}
