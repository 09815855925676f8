package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
)

// Subcommands of Executable that run inside a node.
const (
	InitCommand      = "node-init"      // first process: calls Init
	BootstrapCommand = "node-bootstrap" // calls bootstrap.Main
)

const (
	serviceDir = "/run/service"
	bundlePath = "/etc/ssl/certs/ca-certificates.crt"
)

// Init is a node's first process until its init proper takes over: it sets up what a machine has before its
// services start, and becomes s6-svscan. It runs at every start of the node and returns only an error.
func Init() error {
	config, err := bootstrap.ReadConfig(filepath.Join(ConfigDir, bootstrap.ConfigName))
	if err != nil {
		return err
	}
	for _, step := range []func(bootstrap.Config) error{openFiles, ownCgroup, podLinks, varDirs, identity, trust, refuseServices, services} {
		if err := step(config); err != nil {
			return fmt.Errorf("node init: %w", err)
		}
	}
	const svscan = "/usr/bin/s6-svscan"
	return fmt.Errorf("exec %s: %w", svscan, unix.Exec(svscan, []string{svscan, "-t0", serviceDir}, os.Environ()))
}

// openFiles allows as many open files as the machine lets this process have. The container's description
// asks for none: to give more than its own limit, or to set another user's, the host's root would need
// CAP_SYS_RESOURCE, which it may lack.
func openFiles(bootstrap.Config) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	// Of package syscall: it also keeps the Go runtime from setting the old limit at exec.
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit.Cur, Max: limit.Max})
}

// ownCgroup prepares the node's cgroup on cgroup v2, where a cgroup with processes in it can have no
// children with controllers: what runs moves to a leaf, and the controllers are handed down.
// (https://docs.kernel.org/admin-guide/cgroup-v2.html, No Internal Process Constraint.)
func ownCgroup(bootstrap.Config) error {
	const root = "/sys/fs/cgroup"
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return err
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	return delegateControllers(root)
}

func delegateControllers(root string) error {
	leaf := filepath.Join(root, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	procs, err := os.ReadFile(filepath.Join(root, "cgroup.procs"))
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(procs)) {
		// One that has ended meanwhile needs no move.
		if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(pid), 0o644); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("move process %s to the cgroup %s: %w", pid, leaf, err)
		}
	}
	available, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	missing := map[string]bool{"cpu": true, "memory": true, "pids": true}
	for controller := range strings.FieldsSeq(string(available)) {
		delete(missing, controller)
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return fmt.Errorf("hand down the cgroup controller %s: %w", controller, err)
		}
	}
	for controller := range missing {
		return fmt.Errorf("the cgroup controller %s is not delegated to the node: the kubelet cannot run without it", controller)
	}
	return nil
}

// podLinks takes away the links to pods that an earlier start of the machine has left in its network namespace, which
// outlives it. A route by one of them would keep a pod with the same address from being reached, and no pod has started yet.
func podLinks(bootstrap.Config) error {
	links, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if !strings.HasPrefix(l.Name, "veth") { // as the CNI plugin ptp names them
			continue
		}
		if out, err := exec.Command("ip", "link", "delete", "dev", l.Name).CombinedOutput(); err != nil {
			if _, there := net.InterfaceByName(l.Name); there != nil { // went with its other end meanwhile
				continue
			}
			return fmt.Errorf("delete link %s: %w: %s", l.Name, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// varDirs makes what Debian expects in /var, which starts as an empty disk.
func varDirs(bootstrap.Config) error {
	for _, dir := range []string{"cache", "lib", "local", "log", "opt", "spool", "lib/kubelet", "lib/containerd", "lib/cni"} {
		if err := os.MkdirAll(filepath.Join("/var", dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("/var/tmp", 0o1777); err != nil {
		return err
	}
	if err := os.Chmod("/var/tmp", 0o777|os.ModeSticky); err != nil {
		return err
	}
	for link, target := range map[string]string{"/var/run": "/run", "/var/lock": "/run/lock"} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return os.MkdirAll("/run/lock", 0o1777)
}

// identity writes who the node is and whom it asks for names.
func identity(c bootstrap.Config) error {
	sum := sha256.Sum256([]byte(c.Kubelet.ProviderID + " " + c.NodeName))
	for path, content := range map[string]string{
		"/etc/resolv.conf": c.ResolvConf(), // what Azure's DHCP would have told
		"/etc/hostname":    c.NodeName + "\n",
		"/etc/hosts":       fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", c.NodeAddress, c.NodeName),
		"/etc/machine-id":  hex.EncodeToString(sum[:16]) + "\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// trust adds the installation's authority to those the node trusts.
func trust(bootstrap.Config) error {
	ca, err := os.ReadFile(filepath.Join(ConfigDir, bootstrap.CAName))
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(ca)) == 0 {
		return nil
	}
	bundle, err := os.ReadFile(bundlePath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Contains(bundle, bytes.TrimSpace(ca)) {
		if err := os.MkdirAll(filepath.Dir(bundlePath), 0o755); err != nil {
			return err
		}
		if len(bundle) > 0 && !bytes.HasSuffix(bundle, []byte("\n")) {
			bundle = append(bundle, '\n')
		}
		if err := os.WriteFile(bundlePath, append(bundle, ca...), 0o644); err != nil {
			return err
		}
	}
	const local = "/usr/local/share/ca-certificates"
	if err := os.MkdirAll(local, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(local, "cloister.crt"), ca, 0o644)
}

// refuseServices refuses connections to Services that nothing translates. On its way out of the node such a
// packet would be dropped in silence, and the flow would stay untranslated for as long as it is tried: a
// pod that starts a moment before kube-proxy has its rules would lose thirty seconds.
func refuseServices(c bootstrap.Config) error {
	if !c.ServiceCIDR.IsValid() {
		return nil
	}
	rule := fmt.Sprintf("ip daddr %s meta l4proto tcp reject with tcp reset; ip daddr %[1]s reject;", c.ServiceCIDR)
	// After translation (priority dstnat), so that only what was not translated still has such an address.
	ruleset := "add table inet cloister-services\ndelete table inet cloister-services\ntable inet cloister-services {\n" +
		" chain forward { type filter hook forward priority filter; policy accept; " + rule + " }\n" +
		" chain output { type filter hook output priority filter; policy accept; " + rule + " }\n}\n"
	cmd := exec.Command("/usr/sbin/nft", "-f", "-")
	cmd.Stdin = strings.NewReader(ruleset)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("refuse untranslated Services: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// services writes the service directories. Only the bootstrap starts by itself; it starts the others.
func services(bootstrap.Config) error {
	kubelet := "#!/bin/sh\nexec 2>&1\n. /etc/default/kubelet\nexec /opt/bin/kubelet $KUBELET_FLAGS\n"
	for _, s := range []struct {
		name, run, finish string
		down              bool
	}{
		{name: bootstrap.ContainerdService, run: "#!/bin/sh\nexec 2>&1\nexec /usr/bin/containerd\n", down: true},
		{name: bootstrap.KubeletService, run: kubelet, down: true},
		{
			name: "bootstrap",
			run:  "#!/bin/sh\nexec 2>&1\nexec " + programPath + " " + BootstrapCommand + "\n",
			// 125 tells s6 that this is the end of it; killed half way (256) it starts again.
			// A provisioned node whose services did not start tries again.
			finish: "#!/bin/sh\n[ \"$1\" -eq 256 ] && exit 0\n[ \"$1\" -ne 0 ] && [ -e " + bootstrap.ProvisionedPath + " ] && exit 0\nexit 125\n",
		},
	} {
		dir := filepath.Join(serviceDir, s.name)
		if err := os.MkdirAll(filepath.Join(dir, "log"), 0o755); err != nil {
			return err
		}
		logger := "#!/bin/sh\nmkdir -p /var/log/" + s.name + "\nexec s6-log -b n5 s5000000 /var/log/" + s.name + "\n"
		files := map[string]string{"run": s.run, "log/run": logger}
		if s.finish != "" {
			files["finish"] = s.finish
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
				return err
			}
		}
		if s.down {
			if err := os.WriteFile(filepath.Join(dir, "down"), nil, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
