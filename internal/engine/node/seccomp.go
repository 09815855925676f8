package node

import (
	"runtime"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// seccomp denies what no node needs and what would reach past its namespaces if the kernel's own
// checks had a hole: modules, kexec, swap, clocks, the performance counters, file handles, and the
// hypervisor's socket family, which is not namespaced.
func seccomp() *specs.LinuxSeccomp {
	denied := []string{
		"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "open_by_handle_at",
		"swapon", "swapoff", "acct", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "iopl", "ioperm",
		"perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
	}
	eperm, noFamily := uint(unix.EPERM), uint(unix.EAFNOSUPPORT)
	profile := &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{
			{Names: denied, Action: specs.ActErrno, ErrnoRet: &eperm},
			{
				Names: []string{"socket"}, Action: specs.ActErrno, ErrnoRet: &noFamily,
				Args: []specs.LinuxSeccompArg{{Index: 0, Value: unix.AF_VSOCK, Op: specs.OpEqualTo}},
			},
		},
	}
	if runtime.GOARCH == "amd64" {
		// Else the 32-bit entry points would pass the filter by.
		profile.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	}
	return profile
}
