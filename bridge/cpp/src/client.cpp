#include "sim_stream/client.hpp"

#include <iomanip>
#include <sstream>
#include <utility>

#include "session.hpp"

namespace sim_stream {
namespace {

std::int64_t steady_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

Status ask_status(Connection& connection, const std::string& sid) {
  Received received = connection.ask(wire::Heartbeat{sid, steady_ns()});
  return expect<Status>(received, "status");
}

}  // namespace

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Session(Session&& other) noexcept = default;
Session& Session::operator=(Session&& other) noexcept = default;
Session::~Session() = default;

Session::Impl& Session::open_impl() const {
  if (impl_ == nullptr || impl_->closed) {
    throw SessionClosed("the session is closed");
  }
  return *impl_;
}

const std::string& Session::sid() const { return impl_->sid; }
const Chunk& Session::first() const { return impl_->first; }
std::uint64_t Session::seed() const { return impl_->seed; }
std::optional<double> Session::prompt_psnr_db() const { return impl_->prompt_psnr_db; }

std::string Session::prompt_warning() const {
  const auto& least = impl_->info->spec.prompt_psnr_min_db;
  const auto& found = impl_->prompt_psnr_db;
  if (!least || !found || *found >= *least) {
    return "";
  }
  std::ostringstream words;
  words << std::fixed << std::setprecision(1) << "the model cannot show this prompt: " << *found
        << " dB, its own world " << std::defaultfloat << std::setprecision(6)
        << impl_->info->spec.prompt_psnr_own_db.value_or(*least)
        << " dB or more; expect the drive to collapse";
  return words.str();
}

std::size_t Session::in_flight() const { return impl_->in_flight.size(); }

Chunk Session::step(const Inputs& inputs, const StepOptions& options) {
  Impl& impl = open_impl();
  impl.require_none_in_flight("step");
  impl.send_step(inputs, options);
  return impl.receive();
}

std::int64_t Session::send_step(const Inputs& inputs, const StepOptions& options) {
  return open_impl().send_step(inputs, options);
}

Chunk Session::receive() { return open_impl().receive(); }

Chunk Session::reset(const std::vector<Image>& frames, const StartOptions& options) {
  return open_impl().reset(frames, options);
}

Session Session::fork(std::optional<std::uint64_t> seed) {
  Impl& impl = open_impl();
  impl.require_none_in_flight("fork");
  return Session(impl.fork(seed));
}

Status Session::status() {
  Impl& impl = open_impl();
  return impl.surviving([&] { return ask_status(*impl.connection, impl.sid); });
}

Chunk Session::close() { return impl_ == nullptr ? Chunk{} : impl_->close(); }

Client::Client(const std::string& endpoint, const ClientOptions& options)
    : connection_(std::make_shared<Connection>(endpoint, options)) {
  Received received = connection_->ask(wire::Hello{});
  info_ = std::make_shared<const ServerInfo>(
      std::move(expect<ServerInfo>(received, "hello_ok")));
}

Session Client::open(const std::vector<Image>& frames, const OpenOptions& options) {
  PackedStart start = pack_start(frames, options, info_->spec);
  check_lookahead(options.lookahead, info_->spec);
  wire::Open request;
  request.start = std::move(start.fields);
  request.lookahead = options.lookahead;
  request.idempotency_key = new_key();
  request.record = options.record;
  request.mode = options.realtime ? "realtime" : "lockstep";
  const auto at = Clock::now();
  return connection_->or_withdrawn(request.idempotency_key, [&] {
    Received received = connection_->ask(request, start.arrays, true);
    const wire::Opened opened = expect<wire::Opened>(received, "opened");
    require_frames(opened.frames, !frames.empty());
    Chunk first =
        make_chunk(std::move(received), opened.frames, opened.committed_step, at, info_->spec);
    return Session(std::make_unique<Session::Impl>(connection_, info_, opened, std::move(first),
                                                   options.realtime));
  });
}

Status Client::status() { return ask_status(*connection_, ""); }

}  // namespace sim_stream
