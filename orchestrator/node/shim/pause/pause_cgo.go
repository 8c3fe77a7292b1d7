//go:build linux && cgo

package pause

/*
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

// Nothing but SIGKILL ends it: a pid 1 dies of no signal that it does not handle, and outside of a PID namespace the signals
// are blocked. It is not dumpable, so that containers need CAP_SYS_PTRACE to look into it or at its program.
__attribute__((constructor)) static void keelson_pause(void) {
	if (getenv("KEELSON_SHIM_PAUSE") == NULL)
		return;
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_NAME, "pause", 0, 0, 0);
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	if (chdir("/") != 0)
		_exit(1);
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		sigwaitinfo(&all, NULL);
	}
}
*/
import "C"
