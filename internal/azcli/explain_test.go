package azcli

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestCommandLineIsSaid: az says the command and the names of its arguments with each request, and no values.
func TestCommandLineIsSaid(t *testing.T) {
	s := newService(t)
	s.put(cluster+"x", object{"properties": object{"agentPoolProfiles": []any{}}})
	said := map[string]bool{}
	s.refuse = func(r *http.Request) (int, string) {
		said[r.Header.Get("CommandName")+": "+r.Header.Get("ParameterSetName")] = true
		return 0, ""
	}
	if status, _, complaint := s.az(strings.Fields("aks update -grg --name=x --tags a=secret --load-balancer-outbound-ports 8 -o none")...); status != 0 {
		t.Fatal(complaint)
	}
	if want := "aks update: -g --name --tags --load-balancer-outbound-ports -o"; len(said) != 1 || !said[want] {
		t.Errorf("said %v, want %s", said, want)
	}
}

// TestRegistryWithoutSource: az drops the registry of an update that names no artifact source, without a word.
func TestRegistryWithoutSource(t *testing.T) {
	const registry = "/subscriptions/" + subscription + "/resourceGroups/rg/providers/Microsoft.ContainerRegistry/registries/"
	for _, tt := range []struct {
		arguments, registry, complaint string
	}{
		{"--bootstrap-container-registry-resource-id " + registry + "new", "old", ""},
		{"--bootstrap-artifact-source Cache --bootstrap-container-registry-resource-id " + registry + "new", "new", ""},
		{"--bootstrap-artifact-source Direct --bootstrap-container-registry-resource-id " + registry + "new", "", "when --bootstrap-artifact-source is not Cache"},
		{"--bootstrap-container-registry-resource-id new", "", "is not a valid Azure resource ID"},
	} {
		s := newService(t)
		s.put(cluster+"x", object{"properties": object{"agentPoolProfiles": []any{}, "bootstrapProfile": object{"artifactSource": "Cache", "containerRegistryId": registry + "old"}}})
		status, _, complaint := s.az(strings.Fields("aks update -g rg -n x " + tt.arguments)...)
		if (status != 0) != (tt.complaint != "") || !strings.Contains(complaint, tt.complaint) {
			t.Errorf("%s: %d %s", tt.arguments, status, complaint)
		}
		sent := slices.IndexFunc(s.requests(), func(r request) bool { return r.Method == http.MethodPut })
		if tt.registry == "" {
			if sent >= 0 {
				t.Errorf("%s: it was sent", tt.arguments)
			}
			continue
		}
		p := s.requests()[sent].Body.(map[string]any)["properties"].(map[string]any)
		if got := p["bootstrapProfile"].(map[string]any)["containerRegistryId"]; got != registry+tt.registry {
			t.Errorf("%s: sent %v", tt.arguments, got)
		}
	}
}

// operationSays runs an update whose operation ends as the status says.
func operationSays(t *testing.T, status string, words ...string) (exit int, complaint string) {
	t.Helper()
	s := newService(t)
	s.put(cluster+"x", object{"properties": object{"agentPoolProfiles": []any{}}})
	s.operation = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, status) }
	exit, _, complaint = s.az(append(strings.Fields("aks update -g rg -n x --tags a=b -o none"), words...)...)
	return exit, complaint
}

func TestWarningsOfAnOperation(t *testing.T) {
	const succeeded = `{"status":"Succeeded","properties":{"warnings":[{"code":"A","subject":"s","message":"It is old.","mend":["az one","az two"]},{"code":"B","subject":"s","message":"It is new."}]}}`
	status, complaint := operationSays(t, succeeded)
	if want := "WARNING: It is old.\nTo mend it: az one\n            az two\nWARNING: It is new.\n"; status != 0 || complaint != want {
		t.Errorf("exit status %d, said %q, want %q", status, complaint, want)
	}
	if status, complaint := operationSays(t, succeeded, "--only-show-errors"); status != 0 || complaint != "" {
		t.Errorf("exit status %d, said %q", status, complaint)
	}
	for _, other := range []string{`{"status":"Succeeded"}`, `{"status":"Succeeded","properties":{"exitCode":0}}`, `{"status":"Succeeded","properties":[1]}`, `{"status":"Succeeded","properties":{"warnings":"x"}}`} {
		if status, complaint := operationSays(t, other); status != 0 || complaint != "" {
			t.Errorf("%s: exit status %d, said %q", other, status, complaint)
		}
	}
}

// TestCauseOfAFailure: under az's error stand its cause and what mends it, where the service tells them.
func TestCauseOfAFailure(t *testing.T) {
	status, complaint := operationSays(t, `{"status":"Failed","error":{"code":"C","message":"it failed","additionalInfo":[{"type":"Other","info":{"cause":1}},
		{"type":"CloisterDiagnosis","info":{"subject":"s","cause":{"name":"record","subject":"demo.azurecr.io","state":"broken","saw":"NXDOMAIN"`+
		`,"mend":["az network a"]},"then":["az aks update -g rg -n x"]}}]}}`)
	want := "ERROR: (C) it failed\nCode: C\nMessage: it failed\nCause: record demo.azurecr.io: NXDOMAIN\nTo mend it: az network a\nThen: az aks update -g rg -n x\n"
	if status != exitFailure || complaint != want {
		t.Errorf("exit status %d, said %q, want %q", status, complaint, want)
	}
	for _, info := range []string{`[]`, `[{"type":"CloisterDiagnosis","info":"none"}]`, `[{"type":"CloisterDiagnosis","info":{}}]`, `7`} {
		status, complaint := operationSays(t, `{"status":"Failed","error":{"code":"C","message":"it failed","additionalInfo":`+info+`}}`)
		if status != exitFailure || complaint != "ERROR: (C) it failed\nCode: C\nMessage: it failed\n" {
			t.Errorf("%s: exit status %d, said %q", info, status, complaint)
		}
	}
}

// TestThrottled: who is asked to wait waits, says so, and sends the request again; whoever is refused without a time is refused.
func TestThrottled(t *testing.T) {
	s := newService(t)
	s.put(cluster+"x", object{"properties": object{}})
	refusals := 2
	s.header = http.Header{"Retry-After": {"0"}}
	s.refuse = func(*http.Request) (int, string) {
		if refusals == 0 {
			return 0, ""
		}
		refusals--
		return http.StatusTooManyRequests, `{"error":{"code":"Throttled","message":"too many"}}`
	}
	status, out, complaint := s.az(strings.Fields("aks show -g rg -n x --query name -o tsv")...)
	if want := "WARNING: (Throttled) too many\nThe request is sent again in 0 seconds.\n"; status != 0 || out != "x\n" || complaint != want+want {
		t.Errorf("exit status %d, out %q, said %q", status, out, complaint)
	}
	refusals, s.header = 1, nil
	if status, _, complaint := s.az(strings.Fields("aks show -g rg -n x")...); status != exitFailure || !strings.HasPrefix(complaint, "ERROR: (Throttled) too many") {
		t.Errorf("exit status %d, said %q", status, complaint)
	}
	refusals, s.header = tries, http.Header{"Retry-After": {"0"}}
	if status, _, complaint := s.az(strings.Fields("aks show -g rg -n x --only-show-errors")...); status != exitFailure || !strings.HasPrefix(complaint, "ERROR: (Throttled) too many") {
		t.Errorf("refused for ever: exit status %d, said %q", status, complaint)
	}
}
