// Sends prompt frames and inputs to a sim-stream server, gets predicted frames back.
//
//     sim_stream::Client client("tcp://127.0.0.1:5555");
//     auto session = client.open(images);
//     auto chunk = session.step(sim_stream::Action{10.0, 0.0});
//     show(chunk->image);
//
// A client and its sessions belong to one thread. Every wait is bounded. A step is taken exactly
// once however often it is sent, so a step whose reply is lost is sent again by itself.

#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sim_stream/errors.hpp"
#include "sim_stream/types.hpp"

namespace sim_stream {

// `timeout`: how long one attempt waits for its reply. `resends`: how often it is sent again after
// that; the server does it once all the same. A reset alone is sent once.
//
// For a server beyond this machine: `key_file`, this client's secret key (NAME.secret of
// `sim-stream keygen NAME`), and `server_key_file`, the server's public one (.pub).
//
// `resume`: how long a session may take to come back when its server, which records, was restarted;
// 0: it ends. `connect_timeout`: how long a first server may take to appear where nobody listens.
// `busy`: how long to wait, in place of `timeout`, for a server that answers heartbeats and says that
// it has the request: a model that is being compiled, say.
struct ClientOptions {
  std::chrono::milliseconds timeout{30'000};
  unsigned resends = 2;
  std::string key_file = "";
  std::string server_key_file = "";
  std::chrono::milliseconds resume{60'000};
  std::chrono::milliseconds connect_timeout{2'000};
  std::chrono::milliseconds busy{600'000};
};

// What `info().spec` says that there is: `inputs` of the session, `options` (those left out have the
// spec's defaults), and `prompt_inputs`, none or the step inputs that led to each prompt frame.
struct StartOptions {
  std::uint64_t seed = 0;
  Inputs inputs;
  std::vector<Inputs> prompt_inputs;
  Inputs options;
};

// `lookahead`: one of the spec's, unset its first; with n, frames leave n steps late. `record`: true
// asks for a server that records, false not to be recorded. `realtime`: the server takes the newest
// step, one a period at most; `send_step` at any pace, and `receive` gives the frames of the steps it
// took.
struct OpenOptions : StartOptions {
  std::optional<int> lookahead;
  std::optional<bool> record;
  bool realtime = false;
};

struct StepOptions {
  std::optional<std::int64_t> sim_time_us;
  std::optional<std::int64_t> deadline_ms;
};

class Connection;

// One stream of predicted frames. Its end tells the server, without waiting; `close` waits. Where
// the server records, it survives the server's restart: every call goes on where the session was.
// Methods throw InvalidInput (nothing was sent), RemoteError, ConnectionLost, SessionClosed.
class Session {
 public:
  Session(Session&& other) noexcept;
  Session& operator=(Session&& other) noexcept;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();

  [[nodiscard]] const std::string& sid() const;
  // What the prompt looks like, by the model, at the opening or the last reset; empty where there was
  // no prompt frame. After a fork the parent's latest.
  [[nodiscard]] const Chunk& first() const;
  // Of its noise from here on.
  [[nodiscard]] std::uint64_t seed() const;

  // How close the last prompt frame is to the first frame, its reconstruction; nullopt: the model has
  // none. A fork has its parent's.
  [[nodiscard]] std::optional<double> prompt_psnr_db() const;
  // In words that the model cannot show its prompt, so that the drive will collapse; empty where it
  // can, or where the weights do not say what they can show.
  [[nodiscard]] std::string prompt_warning() const;

  // Predicts one step further and waits for its frames. No step may be in flight.
  Chunk step(const Inputs& inputs = {}, const StepOptions& options = {});

  // The two halves of `step`: up to `limits.max_in_flight` steps may be in flight. In realtime the
  // reply that is received is that of the oldest step that was taken.
  std::int64_t send_step(const Inputs& inputs = {}, const StepOptions& options = {});
  Chunk receive();
  [[nodiscard]] std::size_t in_flight() const;

  // Starts anew from prompt frames; steps count from 1 again. What `first` gives then.
  Chunk reset(const std::vector<Image>& frames, const StartOptions& options = {});

  // A second session that continues from here, with a `seed` under other noise. No step may be in
  // flight.
  Session fork(std::optional<std::uint64_t> seed = std::nullopt);

  // Asking keeps the session from expiring.
  Status status();

  // The last frames, that the lookahead still held; empty where it held none. Closing again gives
  // them again.
  Chunk close();

 private:
  friend class Client;
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  Impl& open_impl() const;
  std::unique_ptr<Impl> impl_;
};

// A connection to one server. It may end before its sessions, which keep the connection.
class Client {
 public:
  // Waits for the server to appear. Throws InvalidInput, NobodyListens, ConnectionLost, RemoteError if the
  // server speaks another version of the protocol or does not take the keys (UNAUTHENTICATED).
  explicit Client(const std::string& endpoint, const ClientOptions& options = {});

  [[nodiscard]] const ServerInfo& info() const { return *info_; }

  // Opens a session on prompt frames, oldest first, as many as the spec's `prompt_frames` say.
  Session open(const std::vector<Image>& frames, const OpenOptions& options = {});

  // Answered even while the engine computes.
  Status status();

 private:
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<const ServerInfo> info_;
};

}  // namespace sim_stream
