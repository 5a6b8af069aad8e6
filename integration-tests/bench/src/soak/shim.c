/*
 * Preloaded into lb-allocator: makes the disk slow and sets the clock, as the file
 * named by SOAK_CONTROL says while it runs.
 *
 * It stands in for a slow disk and for a machine whose clock is set: the one takes
 * device-mapper, the other would set the clock of everything else as well. What it
 * leaves out: reads and writes are as fast as ever, only their way to the disk is not.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* As in shim.rs. */
struct control {
	int64_t clock_seconds;
	int64_t sync_millis;
	int64_t delayed;
};

static struct control nothing;
static struct control *control = &nothing;

__attribute__((constructor)) static void load(void)
{
	const char *path = getenv("SOAK_CONTROL");
	int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *page;

	if (file < 0)
		return;
	page = mmap(NULL, sizeof nothing, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	if (page != MAP_FAILED)
		control = page;
}

static void wait_for_the_disk(void)
{
	int64_t millis = __atomic_load_n(&control->sync_millis, __ATOMIC_RELAXED);
	struct timespec time = {millis / 1000, millis % 1000 * 1000000};

	if (millis <= 0)
		return;
	__atomic_fetch_add(&control->delayed, 1, __ATOMIC_RELAXED);
	nanosleep(&time, NULL);
}

int fsync(int file)
{
	wait_for_the_disk();
	return syscall(SYS_fsync, file);
}

int fdatasync(int file)
{
	wait_for_the_disk();
	return syscall(SYS_fdatasync, file);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
	int failed = syscall(SYS_clock_gettime, clock, time);

	if (!failed && clock == CLOCK_REALTIME)
		time->tv_sec += __atomic_load_n(&control->clock_seconds, __ATOMIC_RELAXED);
	return failed;
}
