package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cloister-dev/cloister/internal/cli"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// Memory at rest, in the table's order.
const (
	metricControlPlane = "a control plane"
	metricNode         = "a node, the largest of three"
	metricServe        = "cloister serve"
	metricRegistry     = "cloister registry, with its shim"
	metricServices     = "cloister vnetservices, with its shim"
	metricPublic       = "cloister public, with its shim"
	metricContainerd   = "containerd"
	metricAddOns       = "pods of CoreDNS and metrics-server"
	metricSum          = "all of it, for a cluster of three nodes"
)

// promises are the figures not to exceed: seconds, or MB of memory.
func promises() map[string]float64 {
	return map[string]float64{
		metricCreate(1): 15, metricCreate(3): 25, metricTop(1): 40, metricTop(3): 40,
		metricDelete(1): 5, metricDelete(3): 5, metricUp: 3, metricRestart: 3,
		metricControlPlane: 620, metricNode: 320, metricServe: 100,
	}
}

// record is what one run has found.
type record struct {
	Date        time.Time  `json:"date"`
	Version     string     `json:"version"`
	Note        string     `json:"note,omitempty"`
	Machine     machine    `json:"machine"`
	Metrics     []metric   `json:"metrics"`
	Creates     []creation `json:"medianCreates"`
	Memory      *memory    `json:"memory,omitempty"` // of the last repetition, by process
	values      map[string][]float64
	creates     []creation
	repetitions int
	sizes       []int
}

// metric is one line of the table.
type metric struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Promise float64   `json:"promise,omitempty"`
	Median  float64   `json:"median"`
	Values  []float64 `json:"values"`
}

// creation is how one create spent its time, and whose processor it was.
type creation struct {
	Nodes     int               `json:"nodes"`
	Timeline  adminapi.Timeline `json:"timeline"`
	Processor share             `json:"processor"`
}

func newRecord(o options, sizes []int) *record {
	return &record{Date: time.Now().UTC().Truncate(time.Second), Note: o.note, Machine: thisMachine(), values: map[string][]float64{}, repetitions: o.repetitions, sizes: sizes}
}

func (r *record) add(name string, value float64) { r.values[name] = append(r.values[name], value) }

func (r *record) addMemory(m memory) {
	r.Memory = &m
	for part, metric := range map[string]string{
		"cloister serve": metricServe, "registry": metricRegistry, "vnetservices": metricServices, "public": metricPublic, "containerd": metricContainerd,
	} {
		r.add(metric, m.Services[part])
	}
	r.add(metricControlPlane, sum(m.ControlPlane))
	all := sum(m.ControlPlane) + sum(m.Services)
	var largest, addOns float64
	for _, n := range m.Nodes {
		largest = max(largest, nodeSum(n))
		addOns += n[addOnPods]
		all += sum(n)
	}
	r.add(metricNode, largest)
	r.add(metricAddOns, addOns)
	r.add(metricSum, all)
}

// finish orders what was added and finds the medians.
func (r *record) finish() {
	add := func(unit string, names ...string) {
		for _, name := range names {
			if values := r.values[name]; len(values) > 0 {
				r.Metrics = append(r.Metrics, metric{name, unit, promises()[name], median(values), values})
			}
		}
	}
	for _, nodes := range r.sizes {
		add("s", metricCreate(nodes), metricTop(nodes))
	}
	for _, nodes := range r.sizes {
		add("s", metricDelete(nodes))
	}
	add("s", metricUp, metricRestart, metricResume)
	add("MB", metricControlPlane, metricNode, metricServe, metricRegistry, metricServices, metricPublic, metricContainerd, metricAddOns, metricSum)
	for _, nodes := range r.sizes {
		var of []creation
		for _, c := range r.creates {
			if c.Nodes == nodes {
				of = append(of, c)
			}
		}
		slices.SortFunc(of, func(a, b creation) int { return int(a.took() - b.took()) })
		if len(of) > 0 {
			r.Creates = append(r.Creates, of[(len(of)-1)/2])
		}
	}
}

func (c creation) took() time.Duration { return c.Timeline.End.Sub(c.Timeline.Start) }

// median is the middle value, of two the mean.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	if n == 0 {
		return 0
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}

// missed names the metrics whose median is more than promised.
func (r *record) missed() (names []string) {
	for _, m := range r.Metrics {
		if m.Promise > 0 && m.Median > m.Promise {
			names = append(names, m.Name)
		}
	}
	return names
}

func (r *record) print(out io.Writer) {
	m := r.Machine
	fmt.Fprintf(out, "\n%s, %s\n%d cores (%s), %d MB, %s, Linux %s\n", r.Version, r.Date.Format("2 January 2006"), m.Cores, m.Processor, m.MemoryMB, m.Distribution, m.Kernel)
	if r.Note != "" {
		fmt.Fprintln(out, r.Note)
	}
	var others []float64
	for _, c := range r.creates {
		others = append(others, c.Processor.Others)
	}
	if len(others) > 0 {
		fmt.Fprintf(out, "During creates others kept %.1f cores busy (median; %.1f at most).\n", median(others), slices.Max(others))
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "\n\tMEDIAN\tPROMISED\t%d RUN(S)\n", r.repetitions)
	for _, m := range r.Metrics {
		format := "%.2f"
		if m.Unit == "MB" {
			format = "%.0f"
		}
		promise := "-"
		if m.Promise > 0 {
			promise = fmt.Sprintf("%.0f %s", m.Promise, m.Unit)
			if m.Median > m.Promise {
				promise += " ✗"
			}
		}
		each := make([]string, len(m.Values))
		for i, v := range m.Values {
			each[i] = fmt.Sprintf(format, v)
		}
		fmt.Fprintf(w, "%s\t"+format+" %s\t%s\t%s\n", m.Name, m.Median, m.Unit, promise, strings.Join(each, " "))
	}
	w.Flush()
	for _, c := range r.Creates {
		fmt.Fprintf(out, "\nCreate, %d node(s), median run; load before it %.1f, others kept %.1f cores busy:\n", c.Nodes, c.Processor.Load, c.Processor.Others)
		cli.PrintTimeline(out, c.Timeline)
		fmt.Fprintf(out, "Processor time: %s\n", parts(c.Processor.Parts, "%.1f s"))
	}
	if r.Memory != nil {
		fmt.Fprintf(out, "\nMemory by process, MB (last run)\ncontrol plane  %s\n", parts(r.Memory.ControlPlane, "%.0f"))
		for i, n := range r.Memory.Nodes {
			fmt.Fprintf(out, "node %d         %s\n", i, parts(n, "%.0f"))
		}
		fmt.Fprintf(out, "services       %s\n", parts(r.Memory.Services, "%.0f"))
	}
}

// parts lists named amounts, the largest first.
func parts(amounts map[string]float64, format string) string {
	names := slices.SortedFunc(maps.Keys(amounts), func(a, b string) int {
		if amounts[a] != amounts[b] {
			return map[bool]int{true: -1, false: 1}[amounts[a] > amounts[b]]
		}
		return strings.Compare(a, b)
	})
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = name + " " + fmt.Sprintf(format, amounts[name])
	}
	return strings.Join(out, ", ")
}
