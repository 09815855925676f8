package bootstrap

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Names in the directory of what the node is told.
const (
	ConfigName = "bootstrap.json"
	CAName     = "ca.pem"
)

// Paths below /var, where AKS nodes have them.
const (
	LogPath    = "log/azure/cluster-provision.log"
	ResultPath = "log/azure/provision.json"
	EventsPath = "log/azure/Microsoft.Azure.Extensions.CustomScript/events"
)

// maxOutput is how much of the log's end AKS puts into the result, and from there into ARM's error.
const maxOutput = 3000

// Result is what provision.json says.
type Result struct {
	Done     bool
	ExitCode ExitCode
	Output   string // the end of cluster-provision.log
	Error    string // what went wrong, plainly
	Step     string // the step that failed
	Started  time.Time
	Duration time.Duration
}

// resultFile is provision.json. cse_start.sh writes its numbers as strings; ErrorName, Hint and Step are ours.
type resultFile struct {
	ExitCode     string
	Output       string
	Error        string
	ExecDuration string // seconds
	CSEStartTime string
	ErrorName    string `json:",omitempty"`
	Hint         string `json:",omitempty"`
	Step         string `json:",omitempty"`
}

func (r Result) marshal() ([]byte, error) {
	d := Describe(r.ExitCode)
	return json.MarshalIndent(resultFile{
		ExitCode: strconv.Itoa(int(r.ExitCode)), Output: r.Output, Error: r.Error,
		ExecDuration: strconv.FormatFloat(r.Duration.Seconds(), 'f', 3, 64),
		CSEStartTime: r.Started.UTC().Format(time.RFC3339Nano),
		ErrorName:    d.Name, Hint: d.Hint, Step: r.Step,
	}, "", "  ")
}

// ParseResult reads provision.json, which a hostile node may have written.
func ParseResult(data []byte) (Result, error) {
	var f resultFile
	if err := json.Unmarshal(data, &f); err != nil {
		return Result{}, fmt.Errorf("provision.json: %w", err)
	}
	code, err := strconv.Atoi(f.ExitCode)
	if err != nil || code < 0 || code > 255 {
		return Result{}, fmt.Errorf("provision.json: exit code %q", f.ExitCode)
	}
	seconds, err := strconv.ParseFloat(f.ExecDuration, 64)
	if err != nil {
		return Result{}, fmt.Errorf("provision.json: duration %q", f.ExecDuration)
	}
	started, err := time.Parse(time.RFC3339Nano, f.CSEStartTime)
	if err != nil {
		return Result{}, fmt.Errorf("provision.json: start time: %w", err)
	}
	return Result{
		Done: true, ExitCode: ExitCode(code), Output: f.Output, Error: f.Error, Step: f.Step,
		Started: started, Duration: time.Duration(seconds * float64(time.Second)),
	}, nil
}

// Event is one finished step.
type Event struct {
	Step       string // AKS.CSE.…
	Start, End time.Time
	Message    string
}

// eventFile is an event as logs_to_events of cse_helpers.sh writes it: the end is in OperationId.
type eventFile struct {
	Timestamp   string
	OperationId string
	Version     string
	TaskName    string
	EventLevel  string
	Message     string
	EventPid    string
	EventTid    string
}

const eventTime = "2006-01-02 15:04:05.000"

func (e Event) marshal() ([]byte, error) {
	level := "Informational"
	if strings.HasPrefix(e.Message, "Failed") {
		level = "Error"
	}
	return json.Marshal(eventFile{
		Timestamp: e.Start.UTC().Format(eventTime), OperationId: e.End.UTC().Format(eventTime), Version: "1.23",
		TaskName: e.Step, EventLevel: level, Message: e.Message, EventPid: "0", EventTid: "0",
	})
}

// ParseEvent reads one event file.
func ParseEvent(data []byte) (Event, error) {
	var f eventFile
	if err := json.Unmarshal(data, &f); err != nil {
		return Event{}, err
	}
	start, err := time.Parse(eventTime, f.Timestamp)
	if err != nil {
		return Event{}, err
	}
	end, err := time.Parse(eventTime, f.OperationId)
	if err != nil {
		return Event{}, err
	}
	return Event{Step: f.TaskName, Start: start, End: end, Message: f.Message}, nil
}

// SortEvents orders events by start.
func SortEvents(events []Event) {
	slices.SortFunc(events, func(a, b Event) int {
		return cmp.Or(a.Start.Compare(b.Start), a.End.Compare(b.End), strings.Compare(a.Step, b.Step))
	})
}
