package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A node reports the capacity of its VM size, not the host's. The kubelet (through cAdvisor) takes memory
// from /proc/meminfo and processors from /proc/cpuinfo and /sys/devices/system/{cpu,node}; so these show
// the VM's inside the node, as lxcfs does for containers. The limit itself is the cgroup's.

// Where the machine's description is mounted over.
const (
	sysCPU  = "/sys/devices/system/cpu"
	sysNode = "/sys/devices/system/node"
)

// machine describes the VM in the directory dir and returns the mounts that show it.
func machine(dir string, memory int64, cpus int) ([]specs.Mount, error) {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, err
	}
	all := "0"
	if cpus > 1 {
		all = "0-" + strconv.Itoa(cpus-1)
	}
	kib := memory / 1024
	files := map[string]string{
		"meminfo":             meminfo(kib),
		"cpuinfo":             virtualCPUInfo(string(cpuinfo), cpus),
		"cpu/online":          all + "\n",
		"cpu/present":         all + "\n",
		"cpu/possible":        all + "\n",
		"cpu/offline":         "\n",
		"cpu/kernel_max":      strconv.Itoa(cpus-1) + "\n",
		"node/online":         "0\n",
		"node/possible":       "0\n",
		"node/has_cpu":        "0\n",
		"node/has_memory":     "0\n",
		"node/node0/online":   "1\n",
		"node/node0/cpulist":  all + "\n",
		"node/node0/distance": "10\n",
		"node/node0/meminfo":  fmt.Sprintf("Node 0 MemTotal:       %d kB\nNode 0 MemFree:        %d kB\n", kib, kib),
	}
	for i := range cpus {
		topology := fmt.Sprintf("cpu/cpu%d/topology/", i)
		files[topology+"core_id"] = strconv.Itoa(i) + "\n"
		files[topology+"physical_package_id"] = "0\n"
		files[topology+"die_id"] = "0\n"
		files[topology+"thread_siblings_list"] = strconv.Itoa(i) + "\n"
		files[topology+"core_siblings_list"] = all + "\n"
		files[fmt.Sprintf("cpu/cpu%d/online", i)] = "1\n"
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		// Written only when different: the files may be mounted in a running node, and a crash half way
		// is mended by the next call.
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, []byte(content)) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "node/node0/hugepages"), 0o755); err != nil {
		return nil, err
	}
	for i := range cpus {
		// On a real machine these are links into the cpu directory.
		link := filepath.Join(dir, fmt.Sprintf("node/node0/cpu%d", i))
		if err := os.Symlink(fmt.Sprintf("../../cpu/cpu%d", i), link); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	mounts := []specs.Mount{
		readOnlyBind(filepath.Join(dir, "meminfo"), "/proc/meminfo"),
		readOnlyBind(filepath.Join(dir, "cpuinfo"), "/proc/cpuinfo"),
	}
	for source, target := range map[string]string{"cpu": sysCPU, "node": sysNode} {
		// A kernel without NUMA has no node directory to mount over.
		if _, err := os.Stat(target); err == nil {
			mounts = append(mounts, readOnlyBind(filepath.Join(dir, source), target))
		}
	}
	return sortedMounts(mounts), nil
}

func meminfo(kib int64) string {
	var b strings.Builder
	for _, f := range []struct {
		name string
		kib  int64
	}{
		{"MemTotal", kib}, {"MemFree", kib}, {"MemAvailable", kib}, {"Buffers", 0}, {"Cached", 0}, {"SwapCached", 0},
		{"Active", 0}, {"Inactive", 0}, {"SwapTotal", 0}, {"SwapFree", 0}, {"Shmem", 0}, {"Slab", 0}, {"SReclaimable", 0},
	} {
		fmt.Fprintf(&b, "%-15s %8d kB\n", f.name+":", f.kib)
	}
	return b.String()
}

// virtualCPUInfo is the host's first processor, cpus times.
func virtualCPUInfo(host string, cpus int) string {
	first, _, _ := strings.Cut(host, "\n\n")
	var b strings.Builder
	for i := range cpus {
		for line := range strings.Lines(first) {
			line = strings.TrimSuffix(line, "\n")
			key, _, found := strings.Cut(line, ":")
			if !found {
				continue
			}
			number := -1
			switch strings.TrimSpace(key) {
			case "processor", "core id", "apicid", "initial apicid":
				number = i
			case "siblings", "cpu cores":
				number = cpus
			case "physical id":
				number = 0
			}
			if number >= 0 {
				line = key + ": " + strconv.Itoa(number)
			}
			b.WriteString(line + "\n")
		}
		b.WriteString("\n")
	}
	return b.String()
}
