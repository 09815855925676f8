package node

import (
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cloister-dev/cloister/internal/lib/containerrun"
)

// Paths inside the node.
const (
	programPath = "/opt/cloister/bin/cloister"
	ConfigDir   = "/opt/cloister/etc"
)

// spec is the node's container. It depends on the config and on paths only, so that the same config
// gives the same container.
func (e *Engine) spec(c Config, p paths, machine []specs.Mount, attempt int) containerrun.Spec {
	mounts := []specs.Mount{
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime"}},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755"}},
		// Not on the overlay: the node's containerd makes overlays of its own there.
		{Destination: "/var", Type: "bind", Source: p.varDir, Options: []string{"rbind", "rw", "rshared"}},
		{Destination: "/dev/fuse", Type: "bind", Source: p.fuse, Options: []string{"bind", "rw"}},
		readOnlyBind(p.etc, ConfigDir),
		readOnlyBind(e.opts.Executable, programPath),
	}
	return containerrun.Spec{
		ID:                containerID(c.ID),
		Args:              []string{programPath, InitCommand},
		Env:               []string{"PATH=/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "container=cloister", "CLOISTER_PROVISION_ATTEMPT=" + strconv.Itoa(attempt)},
		Rootfs:            p.rootfs,
		RootfsPropagation: "rshared",
		Mounts:            append(mounts, machine...),
		NetNS:             e.opts.Layout.NetNS(c.Guest),
		UserNS:            e.opts.Layout.UserNS(c.Guest),
		UIDBase:           c.UIDBase,
		UIDCount:          c.UIDCount,
		Capabilities:      containerrun.AllCapabilities(),
		Seccomp:           seccomp(),
		Hostname:          c.Name,
		Cgroup:            containerID(c.ID),
		Resources:         resources(c, e.opts.CgroupV2, runtime.NumCPU()),
		Log:               e.opts.Layout.Log(containerID(c.ID)),
		Restart:           true,
		Labels:            map[string]string{"dev.cloister/node": c.ID},
	}
}

// resources makes a VM size the limit of the node's cgroup.
func resources(c Config, v2 bool, hostCPUs int) *specs.LinuxResources {
	fuseMajor, fuseMinor := int64(10), int64(229)
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: &fuseMajor, Minor: &fuseMinor, Access: "rwm"}},
		Memory:  &specs.LinuxMemory{Limit: &c.MemoryBytes},
	}
	if c.CPUs >= hostCPUs {
		return r // the host is the limit
	}
	if v2 {
		period := uint64(100_000)
		quota := int64(c.CPUs) * int64(period)
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
		return r
	}
	// On v1 a quota on the node would make the kernel refuse every pod whose own quota is larger, which a
	// real node starts. So the node gets as many processors as it has, spread over the host's by its uids.
	first := int(c.UIDBase/max(c.UIDCount, 1)) * c.CPUs % hostCPUs
	var set []string
	for i := range c.CPUs {
		set = append(set, strconv.Itoa((first+i)%hostCPUs))
	}
	r.CPU = &specs.LinuxCPU{Cpus: strings.Join(set, ",")}
	return r
}

func containerID(id string) string { return "node-" + id }

func readOnlyBind(source, target string) specs.Mount {
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"rbind", "ro", "nosuid", "nodev"}}
}

func sortedMounts(mounts []specs.Mount) []specs.Mount {
	slices.SortFunc(mounts, func(a, b specs.Mount) int { return strings.Compare(a.Destination, b.Destination) })
	return mounts
}

// paths are the places of one node on the host.
type paths struct {
	dir     string // durable
	config  string // the desired state, as last set
	disk    string // generation and attempt of what is on the disk; overlay directories
	varDir  string
	etc     string // what the node is told, bound in read-only
	machine string
	fuse    string
	rootfs  string // where the root file system is mounted
}

func (e *Engine) paths(id string) paths {
	dir := e.opts.Layout.Node(id)
	return paths{
		dir: dir, config: filepath.Join(dir, "config.json"), disk: filepath.Join(dir, "disk"),
		varDir: filepath.Join(dir, "disk", "var"), etc: filepath.Join(dir, "etc"), machine: filepath.Join(dir, "machine"),
		fuse: filepath.Join(dir, "fuse"), rootfs: filepath.Join(e.opts.Layout.RunDir, "nodes", id, "rootfs"),
	}
}
