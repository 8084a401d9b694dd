// The client against a running server of any model, started by tests/bridge/with_server.py.

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <thread>

#include "lossy_proxy.hpp"
#include "sim_stream/client.hpp"

using namespace sim_stream;
using namespace std::chrono_literals;

namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  REQUIRE_MESSAGE(value != nullptr, "run me through tests/bridge/with_server.py");
  return value;
}

std::string endpoint() { return environment("SIM_STREAM_ENDPOINT"); }

// How long to wait for a reply that a test loses; longer than the server ever takes.
ClientOptions impatient(unsigned resends) {
  return {std::chrono::milliseconds(std::stoi(environment("SIM_STREAM_PATIENCE_MS"))), resends};
}

// A road of two greys: what is on it does not matter here.
std::vector<Image> prompt(const ServerInfo& info, std::size_t count = 2) {
  const auto height = static_cast<std::size_t>(info.frame_shape[0]);
  const auto width = static_cast<std::size_t>(info.frame_shape[1]);
  Image image{height, width, std::vector<std::uint8_t>(height * width * 3, 120)};
  std::fill_n(image.rgb.begin(), image.rgb.size() / 2, std::uint8_t{200});
  return std::vector<Image>(count, image);
}

const Action kLeft{8.0, 0.25};

// What an undisturbed drive of `steps` steps under kLeft shows.
std::vector<Frame> undisturbed(Client& client, int steps) {
  auto session = client.open(prompt(client.info()));
  std::vector<Frame> frames;
  for (int n = 0; n < steps; ++n) {
    frames.push_back(session.step(kLeft));
  }
  return frames;
}

// Closing without waiting takes a moment to reach the server.
bool sessions_become(Client& client, std::int64_t sessions) {
  for (int attempt = 0; attempt < 500; ++attempt) {
    if (client.status().sessions == sessions) {
      return true;
    }
    std::this_thread::sleep_for(20ms);
  }
  return false;
}

template <typename Call>
std::string code_of(Call&& call) {
  try {
    call();
  } catch (const RemoteError& error) {
    return error.code();
  }
  return "";
}

}  // namespace

TEST_CASE("a prompt that the model cannot show is named, at the opening, in a fork, after a reset") {
  Client client(endpoint());
  const auto& info = client.info();
  REQUIRE(info.prompt_psnr_min_db.has_value());
  REQUIRE(info.camera.has_value());
  CHECK(info.camera->field_of_view_deg == 66.0);
  CHECK(info.action_spec.front().taken == "end");
  const auto side = static_cast<std::size_t>(info.frame_shape[0]);
  const Image grey{side, side, std::vector<std::uint8_t>(side * side * 3, 128)};

  auto session = client.open({grey});
  REQUIRE(session.prompt_psnr_db().has_value());
  CHECK(*session.prompt_psnr_db() < *info.prompt_psnr_min_db);
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
  CHECK(client.info().protocol == 1);
  CHECK(client.info().fps() == 4.0);
  CHECK(client.info().takes_actions());
  CHECK(client.info().action_spec[1].unit == "rad/s");
  CHECK(client.info().server_epoch.size() > 0);
}

TEST_CASE("a drive: every frame comes once, in order, the last with the close") {
  Client client(endpoint());
  OpenOptions options;
  options.seed = std::numeric_limits<std::uint64_t>::max();
  options.sampling = Sampling{10, 0.6};
  options.decoding = Decoding{"raster", 16, 1};
  options.actions = {std::nullopt, kLeft};
  auto session = client.open(prompt(client.info()), options);
  CHECK(session.first_frame().frame_id == 0);
  CHECK_FALSE(session.first_frame().final);
  for (int n = 1; n <= 3; ++n) {
    const Frame frame = session.step(kLeft, {n * 250'000, std::nullopt});
    CHECK(frame.step == n);
    CHECK(frame.frame_id == n - 1);
    CHECK(frame.committed_step == n);
    CHECK(frame.sim_time_us == n * 250'000);
    CHECK(frame.seed == options.seed);
    CHECK(static_cast<std::int64_t>(frame.image.height) == client.info().frame_shape[0]);
    CHECK(frame.image.rgb.size() == frame.image.height * frame.image.width * 3);
    CHECK(frame.timings_ns.count("world_model") == 1);
    CHECK(frame.round_trip > 0ns);
  }
  CHECK(session.status().committed_step == 3);
  const auto last = session.close();
  REQUIRE(last.has_value());
  CHECK(last->frame_id == 3);
  CHECK(session.close()->frame_id == 3);
  CHECK_THROWS_AS(session.step(), SessionClosed);
}

TEST_CASE("without lookahead a frame comes at once") {
  Client client(endpoint());
  OpenOptions options;
  options.lookahead = 0;
  auto session = client.open(prompt(client.info(), 1), options);
  CHECK(session.step().frame_id == 1);
  CHECK_FALSE(session.close().has_value());
}

TEST_CASE("two steps in flight are answered in order") {
  Client client(endpoint());
  const auto expected = undisturbed(client, 2);
  auto session = client.open(prompt(client.info()));
  CHECK(session.send_step(kLeft) == 1);
  CHECK(session.send_step(kLeft) == 2);
  CHECK_THROWS_AS(session.send_step(), InvalidInput);
  CHECK_THROWS_AS(session.step(), InvalidInput);
  CHECK(session.receive().image.rgb == expected[0].image.rgb);
  CHECK(session.receive().image.rgb == expected[1].image.rgb);
  CHECK_THROWS_AS(session.receive(), InvalidInput);
}

TEST_CASE("a step whose reply is lost is sent again and taken once") {
  Client direct(endpoint());
  const auto expected = undisturbed(direct, 2);
  LossyProxy proxy(endpoint());
  Client client(proxy.endpoint(), impatient(2));
  auto session = client.open(prompt(client.info()));
  SUBCASE("one reply") { proxy.lose_replies = 1; }
  SUBCASE("the request") { proxy.lose_requests = 1; }
  for (int n = 0; n < 2; ++n) {
    const Frame frame = session.step(kLeft);
    CHECK(frame.step == n + 1);
    CHECK(frame.image.rgb == expected[static_cast<std::size_t>(n)].image.rgb);
  }
  CHECK(proxy.lose_replies == 0);
  CHECK(proxy.lose_requests == 0);
}

TEST_CASE("both replies in flight lost: both steps come, in order") {
  Client direct(endpoint());
  const auto expected = undisturbed(direct, 2);
  LossyProxy proxy(endpoint());
  Client client(proxy.endpoint(), impatient(1));
  auto session = client.open(prompt(client.info()));
  proxy.lose_replies = 2;
  session.send_step(kLeft);
  session.send_step(kLeft);
  for (const Frame& frame : expected) {
    CHECK(session.receive().image.rgb == frame.image.rgb);
  }
}

TEST_CASE("after the last resend the step stays in flight and can be asked for again") {
  LossyProxy proxy(endpoint());
  Client client(proxy.endpoint(), impatient(0));
  auto session = client.open(prompt(client.info()));
  const int before = proxy.requests_passed;
  proxy.lose_replies = 1;
  CHECK_THROWS_AS(session.step(kLeft), ConnectionLost);
  CHECK(session.in_flight() == 1);
  CHECK(proxy.requests_passed == before + 1);
  CHECK(session.receive().step == 1);
  CHECK(session.step(kLeft).step == 2);
}

TEST_CASE("a close whose reply is lost brings its frame all the same") {
  LossyProxy proxy(endpoint());
  Client client(proxy.endpoint(), impatient(1));
  auto session = client.open(prompt(client.info()));
  session.step();
  proxy.lose_replies = 1;
  CHECK(session.close()->frame_id == 1);
}

TEST_CASE("an open and a fork whose replies are lost make one session each") {
  Client direct(endpoint());
  REQUIRE(sessions_become(direct, 0));  // those of the other tests
  LossyProxy proxy(endpoint());
  Client client(proxy.endpoint(), impatient(2));
  proxy.lose_replies = 1;
  auto session = client.open(prompt(client.info()));
  proxy.lose_replies = 1;
  auto twin = session.fork();
  CHECK(proxy.lose_replies == 0);
  CHECK(direct.status().sessions == 2);
  CHECK(session.step(kLeft).image.rgb == twin.step(kLeft).image.rgb);
}

TEST_CASE("a fork continues alike and apart") {
  Client client(endpoint());
  auto session = client.open(prompt(client.info()));
  session.step(kLeft);
  auto twin = session.fork();
  CHECK(twin.sid() != session.sid());
  CHECK(session.step(kLeft).image.rgb == twin.step(kLeft).image.rgb);
  twin.step(Action{8.0, -0.25});
  CHECK(twin.step().image.rgb != session.step(kLeft).image.rgb);
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
    frames.push_back(session.receive());
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
  const Frame first = session.step(kLeft);
  session.step();
  CHECK(session.reset(prompt(client.info())).step == 0);
  const Frame again = session.step(kLeft);
  CHECK(again.step == 1);
  CHECK(again.image.rgb == first.image.rgb);
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
  CHECK_THROWS_WITH_AS(client.open({}), doctest::Contains("frames: got 0"), InvalidInput);
  OpenOptions options;
  options.actions = {std::nullopt};
  CHECK_THROWS_WITH_AS(client.open(frames, options), doctest::Contains("actions"), InvalidInput);
  options = {};
  options.text = std::string(4097, 'x');
  CHECK_THROWS_WITH_AS(client.open(frames, options), doctest::Contains("4097"), InvalidInput);
  frames[1].rgb.pop_back();
  CHECK_THROWS_WITH_AS(client.open(frames), doctest::Contains("bytes; allowed"), InvalidInput);
  auto session = client.open(prompt(client.info()));
  CHECK_THROWS_AS(session.step(Action{std::nan(""), 0.0}), InvalidInput);
  CHECK(session.step(kLeft).step == 1);
}

TEST_CASE("what the server refuses says why and leaves the session as it was") {
  Client client(endpoint());
  auto session = client.open(prompt(client.info()));
  OpenOptions options;
  options.sampling = Sampling{0, 1.0};
  CHECK(code_of([&] { client.open(prompt(client.info()), options); }) == "BAD_MESSAGE");
  options = {};
  options.lookahead = 2;
  CHECK(code_of([&] { client.open(prompt(client.info()), options); }) == "BAD_MESSAGE");
  try {
    session.reset(prompt(client.info()), [] {
      StartOptions start;
      start.text = "fly";
      return start;
    }());
    FAIL("neither the toy nor the pocket model takes a text");
  } catch (const RemoteError& error) {
    CHECK(error.code() == "BAD_MESSAGE");
    CHECK_FALSE(error.retryable());
    CHECK(error.committed_step() == 0);
  }
  CHECK(session.step(kLeft).step == 1);
}

TEST_CASE("no server is a lost connection within the timeout") {
  CHECK_THROWS_WITH_AS(Client("tcp://127.0.0.1:9", {100ms, 0}), doctest::Contains("100 ms"),
                       ConnectionLost);
  CHECK_THROWS_AS(Client("nonsense"), InvalidInput);
  CHECK_THROWS_AS(Client(endpoint(), {0ms, 0}), InvalidInput);
}

TEST_CASE("where nobody listens the error says what to start, long before the timeout") {
  for (const std::string nowhere : {"tcp://127.0.0.1:9", "ipc:///tmp/sim-stream-nobody"}) {
    CAPTURE(nowhere);
    ClientOptions options;
    options.timeout = 600s;
    options.connect_timeout = 300ms;
    CHECK_THROWS_WITH_AS(
        Client(nowhere, options),
        doctest::Contains(("300 ms: nobody listens at " + nowhere +
                           "; start it: sim-stream serve --bind " + nowhere).c_str()),
        NobodyListens);
  }
}

TEST_CASE("an open that is given up leaves no session") {
  Client direct(endpoint());
  REQUIRE(sessions_become(direct, 0));  // those of the other tests
  LossyProxy proxy(endpoint());
  Client client(proxy.endpoint(), impatient(0));
  proxy.lose_replies = 1;
  CHECK_THROWS_AS(client.open(prompt(client.info())), ConnectionLost);
  CHECK(sessions_become(direct, 0));
  auto session = client.open(prompt(client.info()));
  proxy.lose_replies = 1;
  CHECK_THROWS_AS(session.fork(), ConnectionLost);
  CHECK(sessions_become(direct, 1));
  CHECK(session.step(kLeft).step == 1);
}

TEST_CASE("in a forked process a client says so at once, ends without harm, and so its parent goes on") {
  auto client = std::make_unique<Client>(endpoint());
  auto session = std::make_unique<Session>(client->open(prompt(client->info())));
  const pid_t child = ::fork();
  if (child == 0) {
    int refused = 0;
    const auto count = [&](auto&& call) {
      try {
        call();
      } catch (const WrongOwner&) {
        ++refused;
      }
    };
    count([&] { session->step(kLeft); });
    count([&] { session->send_step(kLeft); });
    count([&] { session->fork(); });
    count([&] { client->status(); });
    count([&] { client->open(prompt(client->info())); });
    session.reset();
    client.reset();
    ::_exit(refused);
  }
  int status = 0;
  pid_t ended = 0;
  for (int attempt = 0; attempt < 500 && ended == 0; ++attempt) {
    ended = ::waitpid(child, &status, WNOHANG);
    std::this_thread::sleep_for(20ms);
  }
  if (ended == 0) {
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
  }
  REQUIRE(ended == child);
  CHECK(WEXITSTATUS(status) == 5);
  CHECK(session->step(kLeft).step == 1);
}

// Ends the server, hence on its own.
TEST_SUITE("shutdown" * doctest::skip()) {
  TEST_CASE("a server that leaves says so: its sessions are over, another may be looked for") {
    Client client(endpoint(), impatient(0));
    auto session = client.open(prompt(client.info()));
    REQUIRE(::kill(std::stoi(environment("SIM_STREAM_SERVER_PID")), SIGTERM) == 0);
    std::string code;
    for (int attempt = 0; attempt < 500 && code.empty(); ++attempt) {
      code = code_of([&] { session.step(kLeft); });
    }
    CHECK(code == "SHUTTING_DOWN");
    CHECK_THROWS_AS(session.step(kLeft), SessionClosed);
    CHECK_THROWS_AS(client.open(prompt(client.info())), RemoteError);
  }
}

// Needs a server whose steps take longer than the client's timeout, hence on its own.
TEST_SUITE("busy" * doctest::skip()) {
  TEST_CASE("a server that computes is waited for beyond the timeout, up to a bound") {
    Client client(endpoint(), impatient(0));
    auto session = client.open(prompt(client.info()));
    CHECK(session.step(kLeft).step == 1);

    ClientOptions bounded = impatient(0);
    bounded.busy = 1500ms;
    Client other(endpoint(), bounded);
    auto stepped = other.open(prompt(other.info()));
    CHECK_THROWS_WITH_AS(stepped.step(kLeft),
                         doctest::Contains("1500 ms: the server is alive and computing"),
                         ConnectionLost);
    CHECK(stepped.in_flight() == 1);
  }
}

// Kills a server that is started again and has its recordings, hence on its own.
TEST_SUITE("restart" * doctest::skip()) {
  TEST_CASE("a session survives that its server is killed, with equal frames and no step twice") {
    ClientOptions options;
    options.timeout = 3s;
    Client client(endpoint(), options);
    const auto expected = undisturbed(client, 6);
    auto session = client.open(prompt(client.info()));
    auto twin = session.fork();
    std::vector<Frame> frames;
    for (int n = 0; n < 3; ++n) {
      frames.push_back(session.step(kLeft));
    }
    REQUIRE(::kill(std::stoi(environment("SIM_STREAM_SERVER_PID")), SIGKILL) == 0);
    session.send_step(kLeft);
    session.send_step(kLeft);
    frames.push_back(session.receive());
    frames.push_back(session.receive());
    CHECK(client.status().server_epoch != client.info().server_epoch);
    frames.push_back(session.step(kLeft));
    for (std::size_t n = 0; n < expected.size(); ++n) {
      CAPTURE(n);
      CHECK(frames[n].step == static_cast<std::int64_t>(n) + 1);
      CHECK(frames[n].image.rgb == expected[n].image.rgb);
    }
    CHECK(twin.step(kLeft).image.rgb == expected[0].image.rgb);
    CHECK(session.close()->frame_id == 6);
    CHECK(client.status().sessions == 1);
  }
}

// Needs the server that asks for keys, hence on its own.
TEST_SUITE("keys" * doctest::skip()) {
  ClientOptions with_keys(const std::string& key, const std::string& server_key) {
    const std::string folder = environment("SIM_STREAM_KEYS") + "/";
    return {5s, 0, folder + key, folder + server_key};
  }

  TEST_CASE("a listed key drives") {
    Client client(endpoint(), with_keys("client.secret", "server.pub"));
    auto session = client.open(prompt(client.info()));
    CHECK(session.step(kLeft).step == 1);
  }

  TEST_CASE("who is not let in is told why, at once") {
    CHECK_THROWS_WITH_AS(Client(endpoint(), with_keys("stranger.secret", "server.pub")),
                         doctest::Contains("UNAUTHENTICATED: the server does not know"),
                         RemoteError);
    CHECK_THROWS_WITH_AS(Client(endpoint(), {5s, 0}),
                         doctest::Contains("UNAUTHENTICATED: the server asks for keys"),
                         RemoteError);
  }

  TEST_CASE("another server's key is named as the probable cause") {
    ClientOptions options = with_keys("client.secret", "stranger.pub");
    options.timeout = 500ms;
    CHECK_THROWS_WITH_AS(Client(endpoint(), options),
                         doctest::Contains("500 ms: the server breaks off the handshake; probably"),
                         ConnectionLost);
  }

  TEST_CASE("files that are no keys are refused before anything is sent") {
    CHECK_THROWS_WITH_AS(Client(endpoint(), with_keys("server.pub", "server.pub")),
                         doctest::Contains("key_file"), InvalidInput);
    CHECK_THROWS_WITH_AS(Client(endpoint(), with_keys("client.secret", "client.secret")),
                         doctest::Contains("holds a secret key"), InvalidInput);
    CHECK_THROWS_WITH_AS(Client(endpoint(), with_keys("none", "server.pub")),
                         doctest::Contains("can be read"), InvalidInput);
    ClientOptions half = with_keys("client.secret", "server.pub");
    half.server_key_file = "";
    CHECK_THROWS_WITH_AS(Client(endpoint(), half), doctest::Contains("server_key_file: got none"),
                         InvalidInput);
    const std::string open = environment("SIM_STREAM_KEYS") + "/client.secret";
    REQUIRE(::chmod(open.c_str(), 0644) == 0);
    CHECK_THROWS_WITH_AS(Client(endpoint(), with_keys("client.secret", "server.pub")),
                         doctest::Contains("chmod 600"), InvalidInput);
    REQUIRE(::chmod(open.c_str(), 0600) == 0);
  }
}
