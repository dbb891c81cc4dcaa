// SPDX-License-Identifier: GPL-3.0-or-later
//
// The reference: what isolauncher's isolation costs a C program that makes it on demand.
//
//     reference STEPS KILOBYTES HUGE
//
// STEPS is a plan of this machine, written by isolauncher/bench/reference.py: one step
// on a line, WHO NAME ARGUMENT..., in the plan's own order. All of it is read, and
// KILOBYTES of memory that nobody shares are written to (HUGE of them in huge pages),
// before anything is timed. Then it does what it is told on its standard input:
//
//     one          make the sandbox once; answers with the nanoseconds from the fork of
//                  init until its activity writes its byte
//     many N M     make M, N at a time; answers with the nanoseconds of them all
//     hold FD      make one and answer with init's pid and what its stem found of itself:
//                  errno of the filter's probe, securebits, errno of opening FD, which no
//                  rule of Landlock covers; another line ends it
//
// An answer that begins with "!" says what failed. It ends with its standard input or by
// SIGTERM, once all that it has begun has ended and its cgroups are removed. Nothing here
// is ever installed with a right of its own: whoever runs it is root already, or is
// refused by the kernel.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STRINGS = 3, NUMBERS = 7, TREES = 256, AT_ONCE = 1024 };
enum { SECUREBITS = 0xef };

// Not in the headers of Debian 12, or only with others that clash.
#define TREE_CLONE 1
#define RECURSIVE 0x8000
#define EMPTY_PATH 0x1000
#define MOVE_EMPTY 0x44
#define ATTR_RDONLY 0x01
#define PRIVATE (1 << 18)

struct attributes { uint64_t set, clear, propagation, userns; };
struct how { uint64_t flags, mode, resolve; };
struct handled { uint64_t files, net, scopes; };
struct beneath { uint64_t rights; int32_t fd; } __attribute__((packed));

struct step {
	char who;  // 'i' for init, 's' for the stem
	char waits;  // before it, for the other's turns
	const char *name;
	void (*act)(const struct step *);
	char *text[STRINGS];
	size_t size[STRINGS];
	unsigned long number[NUMBERS];
};

static struct step *steps;
static int count, stem_begins, rest_begins;
static int waits;  // a rule of Landlock names what init attaches
static unsigned long launch;  // its number, which names its cgroups

// What a child has at hand, as apply.Context.
static int tree[TREES], bound[TREES], stdio[3] = {-1, -1, -1};
static int root = -1, ruleset = -1, baton = -1, outside = -1;
static pid_t stem;
static struct sock_fprog filter;
static struct prctl_mm_map layout;
static const char *doing = "begin";

// SIGTERM has come: nothing more is begun.
static volatile sig_atomic_t ending;

static void fail(void)
{
	char line[512];
	int fd = stdio[1] >= 0 ? stdio[1] : 1;
	int n = snprintf(line, sizeof line, "!%s: %s\n", doing, strerror(errno));
	if (write(fd, line, n) < 0)
		_exit(126);
	_exit(125);
}

static long must(long result)
{
	if (result < 0)
		fail();
	return result;
}

// ------------------------------------------------------------------------- one step each

static const char *inside(const char *path)
{
	static char buffer[4096];
	snprintf(buffer, sizeof buffer, ".%s", path);
	return buffer;
}

static void write_to(const char *path, const void *data, size_t size)
{
	int fd = must(open(path, O_WRONLY | O_CLOEXEC));
	if (write(fd, data, size) != (ssize_t)size)
		fail();
	close(fd);
}

static void give(const char *path, unsigned long owner)
{
	if (owner)
		must(lchown(inside(path), owner, owner));
}

static void set_attributes(int fd, uint64_t set, int recursive)
{
	struct attributes a = {.set = set, .propagation = recursive < 0 ? 0 : PRIVATE};
	int flags = EMPTY_PATH | (recursive > 0 ? RECURSIVE : 0);
	must(syscall(SYS_mount_setattr, fd, "", flags, &a, sizeof a));
}

static int memory(const char *options[][2], unsigned long attributes)
{
	int context = must(syscall(SYS_fsopen, "tmpfs", 1));
	for (int i = 0; options[i][0]; i++)
		must(syscall(SYS_fsconfig, context, 1, options[i][0], options[i][1], 0));
	must(syscall(SYS_fsconfig, context, 6, NULL, NULL, 0));
	int fd = must(syscall(SYS_fsmount, context, 1, attributes));
	close(context);
	return fd;
}

static void attach(int fd, const char *path)
{
	// In the new root, through no link.
	struct how how = {.flags = O_PATH | O_CLOEXEC, .resolve = 0x10 | 0x04 | 0x02};
	while (*path == '/')
		path++;
	int target = must(syscall(SYS_openat2, root, path, &how, sizeof how));
	must(syscall(SYS_move_mount, fd, "", target, "", MOVE_EMPTY));
	close(target);
}

static void cgroup_path(char *buffer, size_t size, const struct step *s, const char *file)
{
	snprintf(buffer, size, "%s/%lu%s%s", s->text[0], launch, *file ? "/" : "", file);
}

static void do_tree(const struct step *s)
{
	int flags = TREE_CLONE | O_CLOEXEC | (s->number[1] ? RECURSIVE : 0);
	tree[s->number[0]] = must(syscall(SYS_open_tree, AT_FDCWD, s->text[0], flags));
}

static void do_session(const struct step *s) { must(setsid()); }

static void do_keyring(const struct step *s)
{
	if (syscall(SYS_keyctl, 1, NULL) < 0 && errno != ENOSYS)
		fail();
}

static void do_schedule(const struct step *s)
{
	struct sched_param none = {0};
	must(sched_setscheduler(0, SCHED_OTHER, &none));
}

static void do_cgroup_make(const struct step *s)
{
	char path[4096];
	cgroup_path(path, sizeof path, s, "");
	must(mkdir(path, 0755));
}

static void do_cgroup_set(const struct step *s)
{
	char path[4096];
	cgroup_path(path, sizeof path, s, s->text[1]);
	if (s->number[0] && access(path, F_OK) < 0)
		return;  // no accounting of swap here
	write_to(path, s->text[2], s->size[2]);
}

static void do_cgroup_join(const struct step *s)
{
	char path[4096];
	cgroup_path(path, sizeof path, s, s->text[1]);
	write_to(path, "0", 1);
}

static void do_unshare(const struct step *s) { must(unshare(s->number[0])); }

static void do_private(const struct step *s)
{
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
}

static void do_root(const struct step *s)
{
	const char *options[][2] = {
		{"size", s->text[1]}, {"nr_inodes", "4096"}, {"mode", "0755"}, {NULL}};
	root = memory(options, s->number[0]);
	int over = must(open(s->text[0], O_PATH | O_DIRECTORY | O_CLOEXEC));
	must(syscall(SYS_move_mount, root, "", over, "", MOVE_EMPTY));
	close(over);
	must(fchdir(root));
}

static void do_directory(const struct step *s)
{
	must(mkdir(inside(s->text[0]), s->number[0]));
	give(s->text[0], s->number[1]);
}

static void do_symlink(const struct step *s)
{
	must(symlink(s->text[1], inside(s->text[0])));
}

static void do_file(const struct step *s)
{
	int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	int fd = must(open(inside(s->text[0]), flags, (mode_t)s->number[0]));
	if (s->size[1] && write(fd, s->text[1], s->size[1]) != (ssize_t)s->size[1])
		fail();
	close(fd);
	give(s->text[0], s->number[1]);
}

static void do_memory(const struct step *s)
{
	char size[24], inodes[24], mode[24], owner[24];
	snprintf(size, sizeof size, "%lu", s->number[0]);
	snprintf(inodes, sizeof inodes, "%lu", s->number[1]);
	snprintf(mode, sizeof mode, "%lo", s->number[2]);
	snprintf(owner, sizeof owner, "%lu", s->number[3]);
	const char *options[][2] = {{"size", size}, {"nr_inodes", inodes}, {"mode", mode},
		{"uid", owner}, {"gid", owner}, {NULL}};
	int fd = memory(options, s->number[4]);
	attach(fd, s->text[0]);
	close(fd);
}

static void do_attach(const struct step *s)
{
	int fd = tree[s->number[0]];
	set_attributes(fd, s->number[1], s->number[2] ? 1 : 0);
	attach(fd, s->text[0]);
}

static void do_pivot(const struct step *s)
{
	must(fchdir(root));
	must(syscall(SYS_pivot_root, ".", "."));
	must(chdir("/"));
}

static void do_leave_root(const struct step *s) { must(umount2(".", MNT_DETACH)); }

static void do_follow(const struct step *s)
{
	int fd = must(syscall(SYS_pidfd_open, 1, 0));
	must(setns(fd, s->number[0]));
	close(fd);
}

static void do_proc(const struct step *s)
{
	must(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
}

static void do_terminals(const struct step *s)
{
	must(mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		"newinstance,ptmxmode=0666,mode=0620"));
}

static void do_seal(const struct step *s)
{
	int fd = must(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
	set_attributes(fd, ATTR_RDONLY, 0);
	close(fd);
}

static void do_hostname(const struct step *s)
{
	must(sethostname(s->text[0], s->size[0]));
}

static void do_loopback(const struct step *s)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(ioctl(fd, SIOCSIFFLAGS, &request));
	close(fd);
}

static void do_priority(const struct step *s)
{
	must(setpriority(PRIO_PROCESS, 0, (int)(long)s->number[0]));
	write_to("/proc/self/oom_score_adj", s->text[0], s->size[0]);
}

static void do_stdio(const struct step *s)
{
	for (int i = 0; i < 3; i++) {
		must(dup2(stdio[i], i));
		stdio[i] = -1;
	}
}

static void do_signals(const struct step *s)
{
	char plain[32] = {0};
	sigset_t none;
	for (int n = 1; n <= 64; n++)
		if (n != SIGKILL && n != SIGSTOP)
			must(syscall(SYS_rt_sigaction, n, plain, NULL, 8));
	sigemptyset(&none);
	must(sigprocmask(SIG_SETMASK, &none, NULL));
}

static void do_umask(const struct step *s) { umask(s->number[0]); }

static void do_limit(const struct step *s)
{
	struct rlimit limit = {s->number[1], s->number[1]};
	must(setrlimit(s->number[0], &limit));
}

static void do_groups(const struct step *s) { must(setgroups(0, NULL)); }

static void do_user_namespace(const struct step *s) { must(unshare(CLONE_NEWUSER)); }

static void map(const char *file, unsigned long inner, unsigned long outer)
{
	char path[64], line[64];
	snprintf(path, sizeof path, "/proc/%d/%s", stem, file);
	int n = snprintf(line, sizeof line, "%lu %lu 1\n", inner, outer);
	write_to(path, line, n);
}

static void do_map(const struct step *s)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/setgroups", stem);
	write_to(path, "deny", 4);
	map("gid_map", s->number[2], s->number[3]);
	map("uid_map", s->number[0], s->number[1]);
}

static void do_no_nested(const struct step *s)
{
	// The second lock, as in apply.py: the filter refuses the calls too.
	int fd = open("/proc/sys/user/max_user_namespaces", O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "0", 1) == 1)
		close(fd);
}

static void do_become(const struct step *s)
{
	must(setresgid(s->number[1], s->number[1], s->number[1]));
	must(setresuid(s->number[0], s->number[0], s->number[0]));
}

static void drop_bounding_set(void)
{
	for (unsigned long n = 0; n < 64; n++)
		if (prctl(PR_CAPBSET_DROP, n) < 0) {
			if (errno == EINVAL && n > 0)
				break;
			fail();
		}
	must(prctl(PR_SET_SECUREBITS, SECUREBITS));
}

static void clear_capabilities(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct none[2] = {0};
	must(syscall(SYS_capset, &header, none));
}

static void do_drop_capabilities(const struct step *s)
{
	drop_bounding_set();
	clear_capabilities();
}

static void do_show(const struct step *s)
{
	must(prctl(PR_SET_NAME, s->text[0]));
	char *area = malloc(s->size[1] + s->size[2]);
	struct prctl_mm_map m = layout;
	memcpy(area, s->text[1], s->size[1]);
	memcpy(area + s->size[1], s->text[2], s->size[2]);
	m.brk = (uintptr_t)sbrk(0);
	m.arg_start = (uintptr_t)area;
	m.arg_end = m.env_start = m.arg_start + s->size[1];
	m.env_end = m.env_start + s->size[2];
	m.exe_fd = -1;
	// A kernel without it shows our own words instead.
	(void)prctl(PR_SET_MM, PR_SET_MM_MAP, &m, sizeof m, 0);
}

static void do_dumpable(const struct step *s) { must(prctl(PR_SET_DUMPABLE, 1)); }

static void do_no_new_privs(const struct step *s)
{
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void do_ruleset(const struct step *s)
{
	struct handled h = {s->number[0], s->number[1], s->number[2]};
	size_t size = h.scopes ? 24 : h.net ? 16 : 8;
	ruleset = must(syscall(SYS_landlock_create_ruleset, &h, size, 0));
}

static void allow(int fd, unsigned long rights)
{
	struct beneath b = {rights, fd};
	must(syscall(SYS_landlock_add_rule, ruleset, 1, &b, 0));
}

static void do_rule(const struct step *s)
{
	int fd = must(open(s->text[0], O_PATH | O_CLOEXEC));
	allow(fd, s->number[0]);
	close(fd);
}

static void do_rule_tree(const struct step *s)
{
	allow(tree[s->number[0]], s->number[1]);
	bound[s->number[0]] = 0;
}

static void do_restrict(const struct step *s)
{
	must(syscall(SYS_landlock_restrict_self, ruleset, 0));
	close(ruleset);
	ruleset = -1;
}

static void close_all_but(int standard)
{
	int keep[] = {standard ? 0 : -1, standard ? 1 : -1, standard ? 2 : -1, stdio[0],
		stdio[1], stdio[2], baton, ruleset, outside};
	// What stays, from the lowest: not many, so looked for one by one.
	for (unsigned first = 0;;) {
		unsigned next = ~0U;
		for (unsigned i = 0; i < sizeof keep / sizeof *keep; i++)
			if (keep[i] >= 0 && (unsigned)keep[i] >= first && (unsigned)keep[i] < next)
				next = keep[i];
		for (int i = 0; i < TREES; i++)
			if (bound[i] && (unsigned)tree[i] >= first && (unsigned)tree[i] < next)
				next = tree[i];
		if (next > first)
			must(syscall(SYS_close_range, first, next == ~0U ? next : next - 1, 0));
		if (next == ~0U)
			return;
		first = next + 1;
	}
}

static void do_close(const struct step *s) { close_all_but(1); }

static void do_filter(const struct step *s)
{
	filter.len = s->size[0] / sizeof(struct sock_filter);
	filter.filter = (struct sock_filter *)s->text[0];
}

static void do_seccomp(const struct step *s)
{
	must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
}

static void do_lower_init(const struct step *s)
{
	drop_bounding_set();
	must(setgroups(0, NULL));
	do_no_new_privs(s);
}

static void do_leave(const struct step *s)
{
	must(setresgid(s->number[0], s->number[0], s->number[0]));
	must(setresuid(s->number[0], s->number[0], s->number[0]));
	clear_capabilities();
	must(prctl(PR_SET_DUMPABLE, 0));
	stdio[0] = stdio[1] = stdio[2] = ruleset = outside = -1;
	memset(bound, 0, sizeof bound);
	close_all_but(0);
}

// What follows the name: s a string, n a number.
static const struct kind {
	const char *name, *arguments;
	void (*act)(const struct step *);
} kinds[] = {
	{"tree", "snn", do_tree},
	{"new-session", "", do_session},
	{"join-keyring", "", do_keyring},
	{"schedule-normally", "", do_schedule},
	{"cgroup-make", "s", do_cgroup_make},
	{"cgroup-set", "sssn", do_cgroup_set},
	{"cgroup-join", "ss", do_cgroup_join},
	{"unshare", "n", do_unshare},
	{"make-private", "", do_private},
	{"new-root", "ssn", do_root},
	{"directory", "snn", do_directory},
	{"symlink", "ss", do_symlink},
	{"write-file", "ssnn", do_file},
	{"memory-files", "snnnnn", do_memory},
	{"attach", "snnn", do_attach},
	{"pivot", "", do_pivot},
	{"leave-old-root", "", do_leave_root},
	{"follow-init", "n", do_follow},
	{"mount-proc", "", do_proc},
	{"mount-terminals", "", do_terminals},
	{"seal-root", "", do_seal},
	{"set-hostname", "s", do_hostname},
	{"loopback-up", "", do_loopback},
	{"priority", "sn", do_priority},
	{"stdio", "", do_stdio},
	{"reset-signals", "", do_signals},
	{"set-umask", "n", do_umask},
	{"set-limit", "nn", do_limit},
	{"clear-groups", "", do_groups},
	{"new-user-namespace", "", do_user_namespace},
	{"map-identity", "nnnn", do_map},
	{"no-nested-user-namespaces", "", do_no_nested},
	{"become-user", "nn", do_become},
	{"drop-capabilities", "", do_drop_capabilities},
	{"show-as", "sss", do_show},
	{"dumpable", "", do_dumpable},
	{"no-new-privs", "", do_no_new_privs},
	{"landlock-rules", "nnn", do_ruleset},
	{"landlock-rule", "sn", do_rule},
	{"landlock-rule-of-tree", "nn", do_rule_tree},
	{"landlock", "", do_restrict},
	{"close-descriptors", "", do_close},
	{"filter", "s", do_filter},
	{"seccomp", "nnnnnnn", do_seccomp},
	{"lower-init", "", do_lower_init},
	{"leave-privileges", "n", do_leave},
	{"the-rest", "", NULL},
};

// ----------------------------------------------------------------------- the two walkers

static void act(const struct step *s)
{
	doing = s->name;
	s->act(s);
}

static void pass(void)
{
	if (write(baton, "b", 1) != 1)
		_exit(125);
}

static void take(void)
{
	char byte;
	doing = "wait for the other";
	if (read(baton, &byte, 1) != 1)
		_exit(125);
}

// As init.walk: in the plan's order, waiting before some for the other's turns.
static void walk(char me, int from, int to)
{
	char previous = 'i';
	int owed = 0, last = to;
	while (last > from && steps[last - 1].who == steps[to - 1].who)
		last--;
	for (int i = from; i < to; i++) {
		if (steps[i].who == me) {
			if (previous != me)
				owed++;
			for (; owed && steps[i].waits; owed--)
				take();
			act(&steps[i]);
			// Nobody waits for what only the last turn comes after.
			if (i + 1 < last && steps[i + 1].who != me)
				pass();
		}
		previous = steps[i].who;
	}
}

static void alone(char me, int from)
{
	for (int i = from; i < count; i++)
		if (steps[i].who == me)
			act(&steps[i]);
}

// As the stem of the launcher answers before it is verified; not where time is taken.
static int answer(char *buffer, size_t size)
{
	long filtered = 0;
	char path[64];
	int covered = 0;
	for (int i = 0; i < count; i++)
		if (steps[i].act == do_seccomp) {
			const unsigned long *n = steps[i].number;
			long result = syscall(n[0], n[1], n[2], n[3], n[4], n[5], n[6]);
			filtered = result < 0 ? errno : 0;
		}
	snprintf(path, sizeof path, "/proc/self/fd/%d", outside);
	if (open(path, O_RDONLY | O_CLOEXEC) < 0)
		covered = errno;
	close(outside);
	return snprintf(buffer, size, "x %ld %d %d", filtered,
		prctl(PR_GET_SECUREBITS), covered);
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * UINT64_C(1000000000) + t.tv_nsec;
}

static void be_stem(void)
{
	char byte, line[128];
	int size;
	walk('s', stem_begins, rest_begins);
	if (waits)
		take();
	alone('s', rest_begins);
	if (!waits)
		take();
	doing = "write a byte";
	if (outside >= 0)
		size = answer(line, sizeof line);
	else
		size = snprintf(line, sizeof line, "x%llu", (unsigned long long)now());
	if (write(1, line, size) != size)
		_exit(125);
	while (read(0, &byte, 1) > 0)
		;
	_exit(0);
}

static void be_init(void)
{
	int pair[2], status;
	signal(SIGTERM, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	umask(0);
	for (int i = 0; i < stem_begins; i++)
		act(&steps[i]);
	doing = "fork the stem";
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	stem = must(fork());
	if (stem == 0) {
		close(pair[0]);
		baton = pair[1];
		be_stem();
	}
	close(pair[1]);
	baton = pair[0];
	pass();
	walk('i', stem_begins, rest_begins);
	alone('i', rest_begins);
	pass();
	close(baton);
	while (waitpid(-1, &status, 0) != stem)
		;
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 125);
}

// ------------------------------------------------------------------------------- reading

static char *decode(char *word, size_t *size)
{
	char *out = word, *in = word;
	if (strcmp(word, "%") == 0)
		in++;  // nothing at all
	while (*in) {
		unsigned byte;
		if (*in == '%' && sscanf(in + 1, "%2x", &byte) == 1) {
			*out++ = byte;
			in += 3;
		} else {
			*out++ = *in++;
		}
	}
	*size = out - word;
	*out = 0;
	return word;
}

static void bad(const char *line, const char *why)
{
	printf("!%s: %s\n", why, line);
	exit(2);
}

static void read_step(char *line)
{
	char *who = strtok(line, " "), *name = strtok(NULL, " ");
	if (!who || !name)
		bad("-", "a line without a step");
	const struct kind *kind = NULL;
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (strcmp(kinds[i].name, name) == 0)
			kind = &kinds[i];
	if (!kind)
		bad(name, "not a step");
	if (!kind->act) {
		rest_begins = count;
		return;
	}
	struct step *s = &steps[count++];
	int texts = 0, numbers = 0;
	*s = (struct step){.who = *who | 0x20, .waits = !(*who & 0x20),
		.name = kind->name, .act = kind->act};
	for (const char *a = kind->arguments; *a; a++) {
		char *word = strtok(NULL, " ");
		if (!word)
			bad(name, "too few arguments");
		if (*a == 's') {
			s->text[texts] = decode(word, &s->size[texts]);
			texts++;
		} else {
			s->number[numbers++] = strtoul(word, NULL, 0);
		}
	}
	if (s->who == 's' && !stem_begins)
		stem_begins = count - 1;
	if (s->act == do_rule_tree)
		bound[s->number[0]] = 1;
	if (s->act == do_rule && rest_begins)
		waits = 1;
}

static void read_steps(const char *path)
{
	struct stat status;
	FILE *file = fopen(path, "re");
	if (!file || fstat(fileno(file), &status) < 0)
		bad(path, strerror(errno));
	char *text = malloc(status.st_size + 1);
	size_t size = fread(text, 1, status.st_size, file);
	text[size] = 0;
	fclose(file);
	int lines = 1;
	for (char *c = text; *c; c++)
		lines += *c == '\n';
	steps = calloc(lines, sizeof *steps);
	char *next = text;
	for (char *line; (line = strsep(&next, "\n"));)
		if (*line)
			read_step(line);
	if (!stem_begins || !rest_begins)
		bad(path, "not a whole plan");
}

static void read_layout(void)
{
	char text[2048], *field;
	FILE *file = fopen("/proc/self/stat", "re");
	size_t size = file ? fread(text, 1, sizeof text - 1, file) : 0;
	text[size] = 0;
	if (!file || !(field = strrchr(text, ')')))
		bad("/proc/self/stat", "cannot be read");
	fclose(file);
	// The state, proc_pid_stat(5)'s third, comes next.
	field = strtok(field + 1, " ");
	for (int n = 3; field; n++, field = strtok(NULL, " ")) {
		uint64_t value = strtoull(field, NULL, 10);
		switch (n) {
		case 26: layout.start_code = value; break;
		case 27: layout.end_code = value; break;
		case 28: layout.start_stack = value; break;
		case 45: layout.start_data = value; break;
		case 46: layout.end_data = value; break;
		case 47: layout.start_brk = value; break;
		}
	}
}

static void take_memory(size_t kilobytes, int advice)
{
	size_t size = kilobytes << 10;
	if (!size)
		return;
	char *area = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		bad("mmap", strerror(errno));
	(void)madvise(area, size, advice);
	for (size_t i = 0; i < size; i += 4096)
		area[i] = 1;
}

// --------------------------------------------------------------------- what it is told to

struct slot { pid_t init; int reader, answered; unsigned long number; };

// Of all that fails between two answers the first word is told.
static char why[512];

static void complain(const char *text)
{
	if (*why)
		return;
	snprintf(why, sizeof why, "!%s", *text == '!' ? text + 1 : text);
	why[strcspn(why, "\n")] = 0;
}

static void answer_time(uint64_t taken)
{
	if (*why)
		puts(why);
	else
		printf("%llu\n", (unsigned long long)taken);
	*why = 0;
}

// The clock of the one that is begun has started before this is called.
static void begin(struct slot *slot, int input)
{
	int out[2];
	if (pipe2(out, O_CLOEXEC) < 0)
		bad("pipe", strerror(errno));
	slot->number = ++launch;
	slot->answered = 0;
	// As fork, and the child is the first of a PID namespace.
	slot->init = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
	if (slot->init < 0)
		bad("clone", strerror(errno));
	if (slot->init == 0) {
		stdio[0] = input;
		stdio[1] = out[1];
		stdio[2] = 2;
		be_init();
	}
	close(out[1]);
	slot->reader = out[0];
}

// What a sandbox says: 1 when its byte has come, 0 at its end, -1 when it has failed.
static int hear(struct slot *slot, char said[512])
{
	ssize_t n;
	while ((n = read(slot->reader, said, 511)) < 0 && errno == EINTR)
		;
	said[n > 0 ? n : 0] = 0;
	if (n <= 0) {
		if (!slot->answered)
			complain("it ended without a word");
		return slot->answered ? 0 : -1;
	}
	slot->answered = 1;
	if (*said != 'x')
		complain(said);
	return *said == 'x' ? 1 : -1;
}

// How many of its cgroups the kernel has not let go of yet.
static int remove_cgroups(unsigned long number)
{
	int busy = 0;
	char path[4096];
	for (int i = 0; i < rest_begins; i++)
		if (steps[i].act == do_cgroup_make) {
			snprintf(path, sizeof path, "%s/%lu", steps[i].text[0], number);
			if (rmdir(path) < 0 && errno != ENOENT)
				busy++;
		}
	return busy;
}

static void remove_in_time(unsigned long number)
{
	for (int i = 0; i < 1000; i++) {
		if (!remove_cgroups(number))
			return;
		usleep(2000);
	}
	complain("its cgroups cannot be removed");
}

static void finish(struct slot *slot)
{
	int status;
	char line[64];
	close(slot->reader);
	while (waitpid(slot->init, &status, 0) < 0 && errno == EINTR)
		;
	if (status) {
		snprintf(line, sizeof line, "init ended with wait status %d", status);
		complain(line);
	}
}

static void one(int null)
{
	struct slot slot;
	char said[512];
	uint64_t started = now();
	begin(&slot, null);
	// Its own reading of the clock, as a contender's script tells it.
	uint64_t written = hear(&slot, said) == 1 ? strtoull(said + 1, NULL, 10) : started;
	uint64_t taken = written - started;
	finish(&slot);
	remove_in_time(slot.number);
	answer_time(taken);
}

static void many(int null, int at_once, int wanted)
{
	static struct slot slots[AT_ONCE];
	static struct pollfd poll_for[AT_ONCE];
	char said[512];
	unsigned long *left = calloc(wanted, sizeof *left);
	int begun = 0, busy = 0;
	if (!left)
		bad("calloc", strerror(errno));
	uint64_t started = now();
	for (; begun < at_once && begun < wanted; begun++)
		begin(&slots[begun], null);
	int running = begun;
	while (running) {
		for (int i = 0; i < running; i++)
			poll_for[i] = (struct pollfd){slots[i].reader, POLLIN, 0};
		if (poll(poll_for, running, -1) < 0)
			continue;  // SIGTERM: nothing of poll_for is filled in
		for (int i = running - 1; i >= 0; i--) {
			if (!poll_for[i].revents)
				continue;
			if (hear(&slots[i], said) == 1)
				continue;
			finish(&slots[i]);
			// What the kernel has not let go of yet is looked at again with the next.
			left[busy++] = slots[i].number;
			for (int j = busy - 1; j >= 0; j--)
				if (!remove_cgroups(left[j]))
					left[j] = left[--busy];
			if (begun < wanted && !*why && !ending) {
				begin(&slots[i], null);
				begun++;
			} else {
				slots[i] = slots[--running];
				poll_for[i] = poll_for[running];
			}
		}
	}
	// As for a client of the daemon: all of each is given back.
	while (busy)
		remove_in_time(left[--busy]);
	uint64_t taken = now() - started;
	free(left);
	if (begun < wanted)
		complain("it was ended");
	answer_time(taken);
}

static void hold(void)
{
	struct slot slot;
	int pipes[2];
	char line[64], said[512];
	if (pipe2(pipes, O_CLOEXEC) < 0)
		bad("pipe", strerror(errno));
	begin(&slot, pipes[0]);
	close(pipes[0]);
	if (hear(&slot, said) == 1)
		printf("%d%s\n", slot.init, said + 1);
	else
		puts(why);
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin))
		*line = 0;
	close(pipes[1]);
	finish(&slot);
	remove_in_time(slot.number);
	puts(*why ? why : "ended");
	*why = 0;
}

// Whichever way it ends: what is under way ends by itself, its input being an end of file.
static void leave_nothing(void)
{
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	for (unsigned long number = 1; number <= launch; number++)
		remove_in_time(number);
}

static void hear_of_end(int number)
{
	ending = 1;
}

int main(int argc, char **argv)
{
	char line[64];
	int at_once, wanted;
	if (argc != 4)
		bad("usage", "reference STEPS KILOBYTES HUGE");
	// Without SA_RESTART: whatever waits looks again.
	struct sigaction end = {.sa_handler = hear_of_end};
	sigaction(SIGTERM, &end, NULL);
	signal(SIGPIPE, SIG_IGN);
	read_steps(argv[1]);
	read_layout();
	size_t huge = strtoul(argv[3], NULL, 10);
	take_memory(strtoul(argv[2], NULL, 10) - huge, MADV_NOHUGEPAGE);
	take_memory(huge, MADV_HUGEPAGE);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	puts("ready");
	fflush(stdout);
	atexit(leave_nothing);
	while (!ending && fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "many %d %d", &at_once, &wanted) == 2 && at_once > 0 &&
			at_once <= AT_ONCE && wanted > 0)
			many(null, at_once, wanted);
		else if (sscanf(line, "hold %d", &outside) == 1) {
			hold();
			outside = -1;
		}
		else if (strcmp(line, "one\n") == 0)
			one(null);
		else
			puts("!what?");
		fflush(stdout);
	}
	return 0;
}
