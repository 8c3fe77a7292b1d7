//go:build linux

package spec

// family is a set of system calls with what they are for.
type family struct{ what, calls string }

// always are calls that every container may make.
var always = []family{
	{"open, read and write files", `open openat openat2 creat close close_range read pread64 readv preadv preadv2 write pwrite64 writev pwritev
		pwritev2 lseek _llseek sendfile sendfile64 copy_file_range splice tee vmsplice fallocate truncate truncate64 ftruncate ftruncate64
		fsync fdatasync sync syncfs sync_file_range sync_file_range2 arm_sync_file_range readahead fadvise64 fadvise64_64 arm_fadvise64_64 cachestat`},
	{"look at and change files", `stat stat64 lstat lstat64 fstat fstat64 newfstatat fstatat64 statx oldstat oldlstat oldfstat access faccessat faccessat2
		statfs statfs64 fstatfs fstatfs64 ustat chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32 umask utime
		utimes futimesat utimensat utimensat_time64 getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr
		llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat file_getattr file_setattr name_to_handle_at`},
	{"names and directories", `mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat readlink readlinkat mknod mknodat
		getdents getdents64 readdir getcwd chdir fchdir inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark`},
	{"descriptors", `dup dup2 dup3 fcntl fcntl64 ioctl flock pipe pipe2 select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64 epoll_create
		epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4 timerfd
		timerfd_create timerfd_settime timerfd_settime64 timerfd_gettime timerfd_gettime64 memfd_create memfd_secret`},
	{"asynchronous input and output", `io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64`},
	{"memory", `brk mmap mmap2 munmap mremap mprotect madvise mincore msync mlock mlock2 mlockall munlock munlockall mseal map_shadow_stack
		remap_file_pages membarrier pkey_alloc pkey_free pkey_mprotect process_mrelease`},
	{"processes and threads", `fork vfork execve execveat exit exit_group wait4 waitid waitpid getpid getppid gettid getpgid getpgrp setpgid getsid setsid
		set_tid_address set_thread_area get_thread_area set_robust_list get_robust_list rseq prctl arch_prctl pidfd_open pidfd_send_signal
		futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue restart_syscall getcpu capget capset seccomp landlock_create_ruleset
		landlock_add_rule landlock_restrict_self ptrace process_vm_readv process_vm_writev`},
	{"signals", `kill tkill tgkill pause alarm rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn
		rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 sigaction signal sigaltstack sigpending sigprocmask sigreturn sigsuspend sgetmask ssetmask`},
	{"users and groups", `getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32 getgroups
		getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32 setresgid setresgid32
		setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32`},
	{"time", `time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep clock_nanosleep_time64 nanosleep times
		getitimer setitimer timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 adjtimex
		clock_adjtime clock_adjtime64`},
	{"scheduling and limits", `sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
		sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval sched_rr_get_interval_time64
		getpriority setpriority ioprio_get ioprio_set nice getrlimit ugetrlimit setrlimit prlimit64 getrusage`},
	{"sockets", `socketcall socketpair bind listen accept accept4 connect getsockname getpeername getsockopt setsockopt send sendto sendmsg sendmmsg
		recv recvfrom recvmsg recvmmsg recvmmsg_time64 shutdown`},
	{"System V and POSIX queues, semaphores and shared memory", `ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl
		shmdt shmget mq_open mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64`},
	{"the system", `uname sysinfo getrandom lsm_get_self_attr lsm_list_modules`},
}

// perArch are calls that only some machines have.
var perArch = map[string]string{
	"amd64": "modify_ldt",
	"arm64": "breakpoint cacheflush set_tls",
	"arm":   "breakpoint cacheflush set_tls",
}

// withCapability are calls that a container may make if it has a capability.
var withCapability = []struct{ capability, calls string }{
	{"CAP_BPF", "bpf"},
	{"CAP_DAC_READ_SEARCH", "open_by_handle_at"},
	{"CAP_PERFMON", "perf_event_open"},
	{"CAP_SYS_ADMIN", `bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount listns lookup_dcookie lsm_set_self_attr mount mount_setattr
		move_mount open_tree open_tree_attr perf_event_open pivot_root quotactl quotactl_fd setdomainname sethostname setns statmount syslog
		umount umount2 unshare`},
	{"CAP_SYS_BOOT", "reboot"},
	{"CAP_SYS_CHROOT", "chroot"},
	{"CAP_SYS_MODULE", "delete_module init_module finit_module"},
	{"CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node move_pages migrate_pages"},
	{"CAP_SYS_PACCT", "acct"},
	{"CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise userfaultfd"},
	{"CAP_SYS_RAWIO", "iopl ioperm"},
	{"CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"},
	{"CAP_SYS_TTY_CONFIG", "vhangup"},
	{"CAP_SYSLOG", "syslog"},
}
