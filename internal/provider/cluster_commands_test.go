package provider_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/controlplane/runcommand"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

// commands is where commands go, and what came of them.
type commands struct {
	asked   []runcommand.Command
	refusal error
	results map[string]runcommand.Result
}

func (c *commands) Run(command runcommand.Command) error {
	if c.refusal != nil {
		return c.refusal
	}
	c.asked = append(c.asked, command)
	c.results[command.ID] = runcommand.Result{State: runcommand.Running}
	return nil
}

func (c *commands) Result(cluster, id string) (runcommand.Result, error) {
	for _, a := range c.asked {
		if a.Cluster == cluster && a.ID == id {
			return c.results[id], nil
		}
	}
	return runcommand.Result{}, runcommand.ErrNotFound
}

func TestRunCommand(t *testing.T) {
	h, m, id := newAKS(t)
	h.Put(id, create)
	runs := m.commands
	run := func(body string) (int, string, error) {
		answer, err := h.Do(http.MethodPost, id, "runCommand", body)
		return answer.Status, answer.Location + " " + string(answer.Body), err
	}
	status, answer, err := run(`{"command":"kubectl get nodes","context":"` + base64.StdEncoding.EncodeToString([]byte("zip")) + `","clusterToken":""}`)
	if err != nil || len(runs.asked) != 1 {
		t.Fatalf("%d %s, %v", status, answer, err)
	}
	asked := runs.asked[0]
	where := id.Child("commandResults", asked.ID)
	if want := fmt.Sprintf(`%s {"id":%q,"properties":{"provisioningState":"Running"}}`, where, asked.ID); status != http.StatusAccepted || answer != want {
		t.Errorf("%d %s\nwant %s", status, answer, want)
	}
	if asked.Text != "kubectl get nodes" || string(asked.Context) != "zip" || len(asked.ID) != 32 {
		t.Errorf("asked for %+v", asked)
	}

	// Its result is polled with 202 and a body, as az's poller wants it, and stays.
	result := func(where resourceid.ID) (int, string, error) {
		a, err := h.Do(http.MethodGet, where, "", nil)
		return a.Status, string(a.Body), err
	}
	if status, body, err := result(where); status != http.StatusAccepted || !strings.Contains(body, `"provisioningState":"Running"`) || err != nil {
		t.Errorf("%d %s, %v", status, body, err)
	}
	began := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	runs.results[asked.ID] = runcommand.Result{State: runcommand.Succeeded, ExitCode: 1, StartedAt: began, FinishedAt: began.Add(time.Second), Logs: "out"}
	want := fmt.Sprintf(`{"id":%q,"properties":{"exitCode":1,"finishedAt":"2026-11-23T10:00:01Z","logs":"out","provisioningState":"Succeeded","startedAt":"2026-11-23T10:00:00Z"}}`, asked.ID)
	if status, body, err := result(where); status != http.StatusOK || body != want || err != nil {
		t.Errorf("%d %s, %v\nwant %s", status, body, err, want)
	}
	for failure, code := range map[runcommand.Result]string{
		{State: runcommand.Failed, NotStarted: true, Reason: "Unschedulable"}: "KubernetesPerformanceError",
		{State: runcommand.Failed, Reason: "denied the request"}:              "KubernetesOperationError",
	} {
		runs.results[asked.ID] = failure
		_, _, err := result(where)
		wantRefusal(t, err, 400, code, "", failure.Reason)
	}
	_, _, err = result(id.Child("commandResults", strings.Repeat("0", 32)))
	wantRefusal(t, err, 404, "ResourceNotFound", "", "commandResults")
	_, _, err = result(h.ID(managedclusters.Name, "nothere").Child("commandResults", asked.ID))
	wantRefusal(t, err, 404, "ResourceNotFound", "", "nothere")

	for body, c := range map[string]refusal{
		`{"command":" "}`:                      {code: "InvalidParameter", target: "command"},
		`{"command":"a","context":"?"}`:        {code: "InvalidParameter", target: "context", message: "base64"},
		`{"command":"a","clusterToken":"eyJ"}`: {code: "NotSupported", target: "clusterToken"},
	} {
		_, _, err := run(body)
		wantRefusal(t, err, 400, c.code, c.target, c.message)
	}
	runs.refusal = fmt.Errorf("%w: it lies outside", runcommand.ErrContext)
	_, _, err = run(`{"command":"a"}`)
	wantRefusal(t, err, 400, "InvalidParameter", "context", "it lies outside")
	runs.refusal = runcommand.ErrBusy
	_, _, err = run(`{"command":"a"}`)
	wantRefusal(t, err, 429, "TooManyRequests", "", "demo")
	runs.refusal = errors.New("must not be asked")
	h.Put(id, changed(t, create, map[string]any{access + "disableRunCommand": true}))
	_, _, err = run(`{"command":"a"}`)
	wantRefusal(t, err, 400, "RunCommandDisabled", "", "disabled")
}
