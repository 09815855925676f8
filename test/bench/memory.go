package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one process of an installation.
type process struct {
	pid       int
	command   string // arguments, separated by zeros
	container string // the installation's container it is in, "" on the host
	pod       bool   // in a pod of a node
	time      time.Duration
}

func (p process) program() string {
	program, _, _ := strings.Cut(p.command, "\x00")
	return program
}

// processes lists those that run in one of the installation's cgroups, or name its directories in their arguments.
func (in *installation) processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, ok, err := in.process(pid)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH): // it has ended
		case err != nil:
			return nil, err
		case ok:
			out = append(out, p)
		}
	}
	return out, nil
}

func (in *installation) process(pid int) (p process, ok bool, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return p, false, err
	}
	groups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return p, false, err
	}
	if !in.mentions(string(command)) && !in.mentions(string(groups)) {
		return p, false, nil
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return p, false, err
	}
	p = process{pid: pid, command: strings.TrimRight(string(command), "\x00")}
	p.container, p.pod = containerOf(string(groups), in.layout.Cgroup())
	p.time, err = parseTime(string(stat))
	return p, true, err
}

// containerOf finds in /proc/PID/cgroup which container below parent a process is in, and whether it is in a pod there.
func containerOf(groups, parent string) (container string, pod bool) {
	for line := range strings.Lines(groups) {
		_, path, ok := strings.Cut(strings.TrimSpace(line), ":"+parent+"/")
		if !ok {
			continue
		}
		name, rest, _ := strings.Cut(path, "/")
		container, pod = name, pod || strings.HasPrefix(rest, "kubepods")
	}
	return container, pod
}

// parseTime adds up utime, stime, cutime and cstime of /proc/PID/stat (proc_pid_stat(5)).
func parseTime(stat string) (time.Duration, error) {
	_, after, ok := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
	fields := strings.Fields(after)
	if !ok || len(fields) < 15 {
		return 0, fmt.Errorf("a stat of a process reads %q", stat)
	}
	var total time.Duration
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(n) * clockTick
	}
	return total, nil
}

// partOf names the part of an installation that a container, or a program of the host, belongs to.
func partOf(name string) string {
	switch {
	case strings.HasPrefix(name, "cp-"):
		_, component, _ := strings.Cut(strings.TrimPrefix(name, "cp-"), "-")
		return component
	case strings.HasPrefix(name, "node-"):
		return "nodes"
	case name == "cloister":
		return "cloister serve"
	case name == "containerd", strings.HasPrefix(name, "containerd-shim"), name == "runc":
		return "containerd"
	}
	return name
}

// memory is the proportional set size of every process at rest, in MB, by what it belongs to.
type memory struct {
	ControlPlane map[string]float64   `json:"controlPlane"`
	Nodes        []map[string]float64 `json:"nodes"`
	Services     map[string]float64   `json:"services"`
}

// memory adds up the installation's processes. The share of a page that n processes map is a n-th of it
// (proc_pid_smaps(5)), so that the sum counts nothing twice. A shim on the host counts with what it holds.
func (in *installation) memory(ctx context.Context) (memory, error) {
	m := memory{ControlPlane: map[string]float64{}, Services: map[string]float64{}}
	if err := ctx.Err(); err != nil {
		return m, err
	}
	processes, err := in.processes()
	if err != nil {
		return m, err
	}
	nodes := map[string]map[string]float64{}
	for _, p := range processes {
		pss, err := proportionalSize(p.pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return m, err
		}
		program := filepath.Base(p.program())
		owner := p.container
		shim := strings.HasPrefix(program, "containerd-shim")
		if shim && owner == "" {
			owner = argument(p.command, "-id")
		}
		switch {
		case strings.HasPrefix(owner, "cp-"):
			if shim {
				m.ControlPlane["shims"] += pss
			} else {
				m.ControlPlane[partOf(owner)] += pss
			}
		case strings.HasPrefix(owner, "node-"):
			if nodes[owner] == nil {
				nodes[owner] = map[string]float64{}
			}
			nodes[owner][partOfNode(program, p.pod)] += pss
		case owner == "":
			m.Services[partOf(program)] += pss
		default:
			m.Services[owner] += pss
		}
	}
	for _, n := range nodes {
		m.Nodes = append(m.Nodes, n)
	}
	slices.SortFunc(m.Nodes, func(a, b map[string]float64) int { return int(nodeSum(a)*1024 - nodeSum(b)*1024) })
	return m, nil
}

// addOnPods are the pods of kube-system that not every node has: they are no part of what a node takes.
const addOnPods = "add-on pods"

func partOfNode(program string, pod bool) string {
	switch {
	case program == "kubelet", program == "containerd", program == "kube-proxy":
		return program
	case strings.HasPrefix(program, "containerd-shim"):
		return "shims"
	case pod && program != "pause":
		return addOnPods
	}
	return "init, loggers, pauses"
}

// nodeSum is what a node takes: everything but the pods that are not every node's.
func nodeSum(node map[string]float64) (total float64) {
	for part, mb := range node {
		if part != addOnPods {
			total += mb
		}
	}
	return total
}

func sum(parts map[string]float64) (total float64) {
	for _, mb := range parts {
		total += mb
	}
	return total
}

// argument is the value of a flag in a command line.
func argument(command, flag string) string {
	args := strings.Split(command, "\x00")
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// proportionalSize is the PSS of a process in MB.
func proportionalSize(pid int) (float64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "Pss: %g kB", &kb); n == 1 {
			return kb / 1024, nil
		}
	}
	return 0, nil // a zombie
}
