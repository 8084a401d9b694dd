// Replies that are lost, servers that are slow, leave or are killed, and processes that fork.

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#include "lossy_proxy.hpp"
#include "with_server.hpp"

TEST_CASE("a step whose reply is lost is sent again and taken once") {
  Client direct(endpoint());
  const auto expected = undisturbed(direct, 2);
  LossyProxy proxy(endpoint());
  Client client(proxy.endpoint(), impatient(2));
  auto session = client.open(prompt(client.info()));
  SUBCASE("one reply") { proxy.lose_replies = 1; }
  SUBCASE("the request") { proxy.lose_requests = 1; }
  for (int n = 0; n < 2; ++n) {
    const Chunk frame = session.step(kLeft);
    CHECK(frame->step == n + 1);
    CHECK(frame->image.rgb == expected[static_cast<std::size_t>(n)].image.rgb);
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
    CHECK(session.receive()->image.rgb == frame.image.rgb);
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
  CHECK(session.receive()->step == 1);
  CHECK(session.step(kLeft)->step == 2);
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
  CHECK(session.step(kLeft)->image.rgb == twin.step(kLeft)->image.rgb);
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
  CHECK(session.step(kLeft)->step == 1);
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
  CHECK((*session).step(kLeft)->step == 1);
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
    CHECK(session.step(kLeft)->step == 1);

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
      frames.push_back(session.step(kLeft).last());
    }
    REQUIRE(::kill(std::stoi(environment("SIM_STREAM_SERVER_PID")), SIGKILL) == 0);
    session.send_step(kLeft);
    session.send_step(kLeft);
    frames.push_back(session.receive().last());
    frames.push_back(session.receive().last());
    CHECK(client.status().server_epoch != client.info().server_epoch);
    frames.push_back(session.step(kLeft).last());
    for (std::size_t n = 0; n < expected.size(); ++n) {
      CAPTURE(n);
      CHECK(frames[n].step == static_cast<std::int64_t>(n) + 1);
      CHECK(frames[n].image.rgb == expected[n].image.rgb);
    }
    CHECK(twin.step(kLeft)->image.rgb == expected[0].image.rgb);
    CHECK(session.close()->frame_id == 6);
    CHECK(client.status().sessions == 1);
  }
}
