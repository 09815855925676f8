package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is USER_HZ, in which /proc counts processor time: 100 on every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// machine is where a record was made.
type machine struct {
	Processor    string `json:"processor"`
	Cores        int    `json:"cores"`
	MemoryMB     int    `json:"memoryMB"`
	Kernel       string `json:"kernel"`
	Distribution string `json:"distribution"`
}

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU()}
	text := func(path string) string {
		data, _ := os.ReadFile(path) // what is not told stays empty in the record
		return string(data)
	}
	field := func(text, name, separator string) string {
		for line := range strings.Lines(text) {
			if key, value, ok := strings.Cut(line, separator); ok && strings.TrimSpace(key) == name {
				return strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
		return ""
	}
	m.Processor = field(text("/proc/cpuinfo"), "model name", ":")
	m.Kernel = strings.TrimSpace(text("/proc/sys/kernel/osrelease"))
	m.Distribution = field(text("/etc/os-release"), "PRETTY_NAME", "=")
	if kb, err := strconv.Atoi(strings.TrimSuffix(field(text("/proc/meminfo"), "MemTotal", ":"), " kB")); err == nil {
		m.MemoryMB = kb >> 10
	}
	return m
}

// load is the load average of the last minute.
func load() float64 {
	var l float64
	data, _ := os.ReadFile("/proc/loadavg")
	_, _ = fmt.Sscan(string(data), &l)
	return l
}

// busy is how long the machine's cores have worked since it started, together. What the hypervisor took from
// them counts: it was not ours to use.
func busy() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return parseBusy(string(line))
}

// parseBusy adds up the first line of /proc/stat (proc_stat(5)), all but idle and iowait. The fields for
// guests, which come after steal, are part of user already.
func parseBusy(line string) (time.Duration, error) {
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var total time.Duration
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		if i != 3 && i != 4 {
			total += time.Duration(n) * clockTick
		}
	}
	return total, nil
}

// quietShare is how much of one core others may use on a machine that counts as quiet.
const quietShare = 0.15

// awaitQuiet returns when the machine has done next to nothing for two seconds, or after the limit: the record
// says what it was like.
func awaitQuiet(ctx context.Context, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for quiet := 0; quiet < 2; {
		if time.Now().After(deadline) {
			return nil
		}
		before, err := busy()
		if err != nil {
			return err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		after, err := busy()
		if err != nil {
			return err
		}
		quiet++
		if (after - before).Seconds() > quietShare {
			quiet = 0
		}
	}
	return nil
}

// share is who used the processor during a measurement, in seconds; Others in cores.
type share struct {
	Load   float64            `json:"loadBefore"`
	Others float64            `json:"othersCores"`
	Parts  map[string]float64 `json:"seconds"`
}

// meter is a share's begin.
type meter struct {
	in       *installation
	load     float64
	at       time.Time
	busy     time.Duration
	parts    map[string]time.Duration
	children time.Duration
}

func (in *installation) startMeter() (m meter, err error) {
	m = meter{in: in, load: load(), at: time.Now(), children: ownTime()}
	if m.parts, err = in.processorTime(); err != nil {
		return m, err
	}
	m.busy, err = busy()
	return m, err
}

func (m meter) stop() (share, error) {
	s := share{Load: m.load, Parts: map[string]float64{}}
	total, err := busy()
	if err != nil {
		return s, err
	}
	parts, err := m.in.processorTime()
	if err != nil {
		return s, err
	}
	total -= m.busy
	own := ownTime() - m.children
	for part, used := range parts {
		used -= m.parts[part]
		own += used
		if used > 0 {
			s.Parts[part] = used.Seconds()
		}
	}
	s.Others = max(0, (total-own).Seconds()/time.Since(m.at).Seconds())
	return s, nil
}

// ownTime is the processor time of bench and of the commands that it has run.
func ownTime() (total time.Duration) {
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if syscall.Getrusage(who, &r) == nil {
			total += time.Duration(r.Utime.Nano() + r.Stime.Nano())
		}
	}
	return total
}

// processorTime is what each part of the installation has used so far: its containers by their cgroups, which
// count what has ended there, too, and the processes of the host.
func (in *installation) processorTime() (map[string]time.Duration, error) {
	parts := map[string]time.Duration{}
	for _, root := range cgroupRoots() {
		groups, err := filepath.Glob(filepath.Join(root, in.layout.Cgroup(), "*"))
		if err != nil {
			return nil, err
		}
		for _, group := range groups {
			if used, ok := cgroupTime(group); ok {
				parts[partOf(filepath.Base(group))] += used
			}
		}
	}
	processes, err := in.processes()
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		if p.container == "" {
			parts[partOf(filepath.Base(p.program()))] += p.time
		}
	}
	return parts, nil
}

// cgroupRoots are the mounted hierarchies, of version 1 or 2.
func cgroupRoots() []string {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	out := make([]string, 0, len(roots)+1)
	for _, r := range roots {
		out = append(out, filepath.Dir(r))
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		return []string{"/sys/fs/cgroup"} // version 2 alone; the others are groups in it
	}
	return out
}

// cgroupTime is the processor time of a cgroup and those below it, where the hierarchy counts it.
func cgroupTime(group string) (time.Duration, bool) {
	if data, err := os.ReadFile(filepath.Join(group, "cpuacct.usage")); err == nil {
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		// cpu and cpuacct can be one hierarchy under two names.
		return time.Duration(n), err == nil && filepath.Base(filepath.Dir(filepath.Dir(group))) == "cpuacct"
	}
	data, err := os.ReadFile(filepath.Join(group, "cpu.stat"))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		var micros int64
		if n, _ := fmt.Sscanf(line, "usage_usec %d", &micros); n == 1 {
			return time.Duration(micros) * time.Microsecond, true
		}
	}
	return 0, false
}
