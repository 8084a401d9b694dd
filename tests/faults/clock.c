/* A wall clock that jumps: preloaded, it adds the seconds found in the file FAULTS_CLOCK (an int64,
   mapped, so that a change is seen at once) to everything that is asked for the time of day.
   Monotonic clocks stay as they are, as when an administrator or NTP sets the clock. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *jump_s;

__attribute__((constructor)) static void map_jump(void) {
  const char *path = getenv("FAULTS_CLOCK");
  int file = path ? open(path, O_RDONLY) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof *jump_s, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped != MAP_FAILED) jump_s = mapped;
}

static int64_t jump(void) { return jump_s ? *jump_s : 0; }

int clock_gettime(clockid_t which, struct timespec *now) {
  static int (*original)(clockid_t, struct timespec *);
  if (!original) *(void **)&original = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = original(which, now);
  if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += jump();
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *kept) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  if (kept) *kept = now.tv_sec;
  return now.tv_sec;
}
