package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/cli"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// Room that a start needs, in bytes: the built artifacts, and an installation with one cluster.
const (
	artifactSpace = 6 << 30
	dataSpace     = 3 << 30
	memoryWanted  = 3 << 30
)

// Doctor examines the machine. It changes nothing that it does not put back.
func Doctor(_ context.Context, dataDir, cacheDir string) []cli.Finding {
	checks := []func() cli.Finding{
		root, kernel, userNamespaces, overlay, firewall, cgroups,
		func() cli.Finding { return space("space for data", dataDir, dataSpace) },
		func() cli.Finding { return space("space for artifacts", cacheDir, artifactSpace) },
		memory, inotify,
		func() cli.Finding { return dataDirectory(dataDir) },
		otherContainerd,
	}
	findings := make([]cli.Finding, 0, len(checks))
	for _, check := range checks {
		findings = append(findings, check())
	}
	return findings
}

func fine(name, format string, args ...any) cli.Finding {
	return cli.Finding{Name: name, OK: true, Detail: fmt.Sprintf(format, args...)}
}

func root() cli.Finding {
	f := cli.Finding{Name: "root", Fatal: true, Detail: "this is not root", Remedy: "run it with sudo"}
	if os.Geteuid() != 0 {
		return f
	}
	if !capable(unix.CAP_SYS_ADMIN) || !capable(unix.CAP_NET_ADMIN) {
		f.Detail, f.Remedy = "root lacks CAP_SYS_ADMIN or CAP_NET_ADMIN", "run it outside of the container, or give the container all capabilities"
		return f
	}
	if !capable(unix.CAP_SYS_RESOURCE) {
		return fine("root", "yes, without CAP_SYS_RESOURCE, which Cloister can do without")
	}
	return fine("root", "yes")
}

func capable(c uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	return data[c/32].Effective&(1<<(c%32)) != 0
}

// kernel: overlayfs with idmapped lower layers came with Linux 5.19.
func kernel() cli.Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return cli.Finding{Name: "kernel", Fatal: true, Detail: err.Error()}
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n == 2 && (major < 5 || major == 5 && minor < 19) {
		return cli.Finding{Name: "kernel", Fatal: true, Detail: "Linux " + release + " cannot stack an overlay on an idmapped directory", Remedy: "use Linux 5.19 or later"}
	}
	return fine("kernel", "Linux %s", release)
}

func userNamespaces() cli.Finding {
	f := cli.Finding{Name: "user namespaces", Fatal: true, Remedy: "set sysctl user.max_user_namespaces to 1000 or more"}
	data, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	if err != nil {
		f.Detail, f.Remedy = "the kernel has no user namespaces", "use a kernel with CONFIG_USER_NS"
		return f
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	if n < 100 {
		f.Detail = fmt.Sprintf("only %d are allowed", n)
		return f
	}
	return fine("user namespaces", "up to %d", n)
}

func overlay() cli.Finding {
	data, _ := os.ReadFile("/proc/filesystems")
	if strings.Contains(string(data), "overlay") {
		return fine("overlayfs", "yes")
	}
	if _, err := os.Stat("/lib/modules"); err == nil {
		return fine("overlayfs", "as a module, loaded when it is first used")
	}
	return cli.Finding{Name: "overlayfs", Fatal: true, Detail: "the kernel does not have it", Remedy: "use a kernel with CONFIG_OVERLAY_FS"}
}

func firewall() cli.Finding {
	if err := fabric.Supported(); err != nil {
		return cli.Finding{Name: "nftables", Fatal: true, Detail: err.Error(), Remedy: "use a kernel with CONFIG_NF_TABLES, or run modprobe nf_tables"}
	}
	return fine("nftables", "yes")
}

func cgroups() cli.Finding {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return cli.Finding{Name: "cgroups", Fatal: true, Detail: "/sys/fs/cgroup is not mounted", Remedy: "mount cgroup2 on /sys/fs/cgroup"}
	}
	var have []string
	version := 1
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		version = 2
		data, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		have = strings.Fields(string(data))
	} else {
		for _, c := range []string{"cpu", "memory", "pids", "cpuset"} {
			if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", c)); err == nil {
				have = append(have, c)
			}
		}
	}
	var missing []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !contains(have, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return cli.Finding{Name: "cgroups", Fatal: true, Detail: "no controller " + strings.Join(missing, ", "), Remedy: "boot with cgroup_enable=memory and without cgroup_disable"}
	}
	return fine("cgroups", "version %d with cpu, memory, pids", version)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// space looks at the file system that the directory is, or will be, on.
func space(name, dir string, want uint64) cli.Finding {
	at := dir
	for {
		if _, err := os.Stat(at); err == nil || at == "/" {
			break
		}
		at = filepath.Dir(at)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return cli.Finding{Name: name, Fatal: true, Detail: err.Error()}
	}
	free := st.Bavail * uint64(st.Bsize)
	detail := fmt.Sprintf("%.1f GiB free for %s", float64(free)/(1<<30), dir)
	if free >= want {
		return fine(name, "%s", detail)
	}
	if _, err := os.Stat(filepath.Join(dir, "current")); err == nil || free > 1<<30 && dir == "" {
		return fine(name, "%s; what is needed is built", detail)
	}
	return cli.Finding{Name: name, Fatal: free < want/4, Detail: detail, Remedy: fmt.Sprintf("free %.0f GiB there, or name another directory", float64(want)/(1<<30))}
}

func memory() cli.Finding {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return cli.Finding{Name: "memory", Detail: err.Error()}
	}
	total := info.Totalram * uint64(info.Unit)
	detail := fmt.Sprintf("%.1f GiB", float64(total)/(1<<30))
	if total < memoryWanted {
		return cli.Finding{Name: "memory", Detail: detail, Remedy: "a cluster of one node wants 3 GiB, of three nodes 4 GiB"}
	}
	return fine("memory", "%s", detail)
}

// inotify: each node has a quota of its own, in its user namespace, but the host's own processes count here.
func inotify() cli.Finding {
	data, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return fine("inotify", "unknown")
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	if n < 128 {
		return cli.Finding{Name: "inotify", Detail: fmt.Sprintf("fs.inotify.max_user_instances is %d", n), Remedy: "set sysctl fs.inotify.max_user_instances to 512"}
	}
	return fine("inotify", "%d instances per user", n)
}

func dataDirectory(dir string) cli.Finding {
	f := cli.Finding{Name: "data directory", Fatal: true, Remedy: "remove " + dir + ", or name another with --data-dir"}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return fine("data directory", "%s is new", dir)
	}
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	in, err := LoadInstance(dir)
	if errors.Is(err, os.ErrNotExist) {
		f.Detail = dir + " holds files but no instance.json: half deleted, or not Cloister's"
		return f
	}
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	if len(layout.New(dir, "", in.ID).ServeSocket()) > 107 {
		f.Detail = "the run directory's name is too long for a socket"
		return f
	}
	return fine("data directory", "%s, instance %s", dir, in.ID)
}

// otherContainerd is told because people ask: Cloister's own shares nothing with it.
func otherContainerd() cli.Finding {
	for _, socket := range []string{"/run/containerd/containerd.sock", "/run/docker.sock"} {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			return fine("other containerd", "%s runs here; Cloister's own is apart from it", socket)
		}
	}
	return fine("other containerd", "none")
}
