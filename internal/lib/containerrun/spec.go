package containerrun

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/pkg/cap"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Spec describes one container.
type Spec struct {
	ID   string
	Args []string
	Env  []string
	Cwd  string // "/" when empty
	User specs.User

	// Rootfs is a host directory. When it is empty the container gets an empty one of its own, in
	// which only Mounts appear.
	Rootfs            string
	ReadonlyRootfs    bool
	RootfsPropagation string

	// Mounts are added to /proc, /dev, /dev/pts, /dev/shm, /dev/mqueue, /sys (read-only), /run and
	// /tmp; one with the same destination takes the place of such a default.
	Mounts []specs.Mount

	NetNS string // path; the host's when empty
	// UserNS is the path of a user namespace that maps UIDBase..UIDBase+UIDCount to 0. Network
	// namespaces of such a container must belong to it.
	UserNS            string
	UIDBase, UIDCount uint32

	// Capabilities, as in "CAP_NET_ADMIN". In the host's user namespace those outside this process's
	// bounding set are left out, since runc refuses to start a container that asks for them.
	Capabilities    []string
	NoNewPrivileges bool
	Seccomp         *specs.LinuxSeccomp
	Hostname        string
	Rlimits         []specs.POSIXRlimit
	Sysctl          map[string]string
	OOMScoreAdj     *int

	Cgroup    string                // relative to Options.Cgroup; ID when empty
	Resources *specs.LinuxResources // devices: everything is denied but runc's own defaults and what is allowed here
	Devices   []specs.LinuxDevice
	Hooks     *specs.Hooks

	Log     string // file to which output is appended; discarded when empty
	Restart bool   // keep it running, across restarts of containerd and of the machine
	Labels  map[string]string
}

// AllCapabilities lists every capability this kernel's containers may be given; a container in a user
// namespace of its own has them in that namespace only.
func AllCapabilities() []string { return cap.Known() }

// Labels of ours on a container; everything else about it is in containerd's record.
const (
	labelSpec = "dev.cloister/spec" // hash of what it was made from

	annotationOwner = "dev.cloister/cgroup-owner" // uid that the cgroup is given to, read by CgroupHook
)

func (c *Client) cgroupPath(s Spec) string {
	name := s.Cgroup
	if name == "" {
		name = s.ID
	}
	return filepath.Join(c.opts.Cgroup, name)
}

func (c *Client) emptyRootfs(id string) string {
	return filepath.Join(c.opts.StateDir, id, "rootfs")
}

// oci translates the spec into the runtime's.
func (c *Client) oci(s Spec) (*specs.Spec, error) {
	if s.ID == "" || len(s.Args) == 0 {
		return nil, errors.New("a container needs an ID and a command")
	}
	if (s.UserNS == "") != (s.UIDCount == 0) {
		return nil, fmt.Errorf("container %s: a user namespace needs both its path and its id range", s.ID)
	}
	caps := s.Capabilities
	if s.UserNS == "" {
		var err error
		if caps, err = withinBoundingSet(caps); err != nil {
			return nil, err
		}
	}
	rootfs := s.Rootfs
	if rootfs == "" {
		rootfs = c.emptyRootfs(s.ID)
	}
	cwd := s.Cwd
	if cwd == "" {
		cwd = "/"
	}
	spec := &specs.Spec{
		Version:     specs.Version,
		Hostname:    s.Hostname,
		Root:        &specs.Root{Path: rootfs, Readonly: s.ReadonlyRootfs},
		Mounts:      mergeMounts(defaultMounts(), s.Mounts),
		Annotations: map[string]string{},
		Process: &specs.Process{
			Args: s.Args, Env: s.Env, Cwd: cwd, User: s.User,
			NoNewPrivileges: s.NoNewPrivileges,
			Rlimits:         s.Rlimits,
			OOMScoreAdj:     s.OOMScoreAdj,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Linux: &specs.Linux{
			CgroupsPath:       c.cgroupPath(s),
			RootfsPropagation: s.RootfsPropagation,
			Seccomp:           s.Seccomp,
			Sysctl:            s.Sysctl,
			Devices:           s.Devices,
			Resources:         resources(s.Resources),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
		},
	}
	if s.Hooks != nil {
		hooks := *s.Hooks
		spec.Hooks = &hooks
	}
	if s.NetNS != "" {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: s.NetNS})
	}
	if s.UserNS == "" {
		// A container that is root on the host must not see or change the machine. In a user namespace
		// the kernel sees to that, and a mask would forbid the proc mounts of containers inside.
		spec.Linux.MaskedPaths = []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
			"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
		spec.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
		return spec, nil
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: s.UserNS})
	mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: s.UIDBase, Size: s.UIDCount}}
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = mapping, mapping
	if len(c.opts.CgroupHook) == 0 {
		return nil, fmt.Errorf("container %s: in a user namespace, but there is no command to prepare its cgroup", s.ID)
	}
	spec.Annotations[annotationOwner] = strconv.FormatUint(uint64(s.UIDBase), 10)
	if spec.Hooks == nil {
		spec.Hooks = &specs.Hooks{}
	}
	spec.Hooks.CreateRuntime = append(slices.Clone(spec.Hooks.CreateRuntime),
		specs.Hook{Path: c.opts.CgroupHook[0], Args: c.opts.CgroupHook})
	return spec, nil
}

// hash names what a container is made from; a container with another hash is replaced.
func (c *Client) hash(s Spec, spec *specs.Spec) (string, error) {
	data, err := json.Marshal(struct {
		Spec       *specs.Spec
		Shim, Runc string
		Root, Log  string
		Restart    bool
		Labels     map[string]string
	}{spec, c.opts.Shim, c.opts.Runc, c.opts.RuncRoot, s.Log, s.Restart, s.Labels})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16]), nil
}

func resources(in *specs.LinuxResources) *specs.LinuxResources {
	out := specs.LinuxResources{}
	if in != nil {
		out = *in
	}
	out.Devices = append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, out.Devices...)
	return &out
}

func defaultMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755"}},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777"}},
	}
}

// mergeMounts keeps the order of the defaults, so that a parent is mounted before what lies in it.
func mergeMounts(defaults, own []specs.Mount) []specs.Mount {
	out := slices.Clone(defaults)
	for _, m := range own {
		if i := slices.IndexFunc(out, func(d specs.Mount) bool { return d.Destination == m.Destination }); i >= 0 {
			out[i] = m
		} else {
			out = append(out, m)
		}
	}
	return out
}

func withinBoundingSet(want []string) ([]string, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sets, err := cap.ParseProcPIDStatus(f)
	if err != nil {
		return nil, fmt.Errorf("read capabilities: %w", err)
	}
	bounding, _ := cap.FromBitmap(sets[cap.Bounding])
	return slices.DeleteFunc(slices.Clone(want), func(c string) bool { return !slices.Contains(bounding, c) }), nil
}
