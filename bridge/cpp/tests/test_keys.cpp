#include <doctest/doctest.h>
#include <sys/stat.h>

#include "with_server.hpp"

// Needs the server that asks for keys, hence on its own.
TEST_SUITE("keys" * doctest::skip()) {
  ClientOptions with_keys(const std::string& key, const std::string& server_key) {
    const std::string folder = environment("SIM_STREAM_KEYS") + "/";
    return {5s, 0, folder + key, folder + server_key};
  }

  TEST_CASE("a listed key drives") {
    Client client(endpoint(), with_keys("client.secret", "server.pub"));
    auto session = client.open(prompt(client.info()));
    CHECK(session.step(kLeft)->step == 1);
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
