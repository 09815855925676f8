package managedclusters

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/engine/controlplane/runcommand"
)

// Commands runs users' commands in clusters.
type Commands interface {
	// Run writes the command down and starts it.
	Run(c runcommand.Command) error
	// Result tells how it stands with a command of the cluster.
	Result(cluster, id string) (runcommand.Result, error)
}

// runCommand is POST runCommand: the command runs in a pod of the cluster, and Location tells what comes of it.
//
// https://learn.microsoft.com/rest/api/aks/managed-clusters/run-command
func (t service) runCommand(_ context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
	m := r.Model
	var body struct {
		Command      string `json:"command"`
		Context      string `json:"context"`
		ClusterToken string `json:"clusterToken"`
	}
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return nil, armerror.New(armerror.InvalidRequestContent, "The request content was invalid and could not be deserialized: '%v'.", err)
	}
	if a := m.Properties.APIServerAccessProfile; a != nil && isTrue(a.DisableRunCommand) {
		return nil, armerror.New(codeRunDisabled, "Run command is disabled on managed cluster %s (apiServerAccessProfile.disableRunCommand).", r.ID.Name())
	}
	switch m.Properties.ProvisioningState {
	case "Creating", "Deleting", "Failed":
		return nil, armerror.New(armerror.OperationNotAllowed, "The cluster is being deleted or hasn't been fully provisioned yet.").WithStatus(http.StatusConflict)
	}
	if err := m.mustRun("running a command"); err != nil {
		return nil, err
	}
	if strings.TrimSpace(body.Command) == "" {
		return nil, armerror.New(armerror.InvalidParameter, "Required parameter command is missing (null).").WithTarget("command")
	}
	if body.ClusterToken != "" {
		return nil, armerror.New(codeUnsupported, "clusterToken is for clusters with Microsoft Entra integration, which Cloister does not have.").WithTarget("clusterToken")
	}
	files, err := base64.StdEncoding.DecodeString(body.Context)
	if err != nil {
		return nil, armerror.New(armerror.InvalidParameter, "The context of the command is not base64: %v", err).WithTarget("context")
	}
	id := randomHex(16)
	err = t.Commands.Run(runcommand.Command{ID: id, Cluster: m.Memory.ClusterID, Text: body.Command, Context: files})
	switch {
	case errors.Is(err, runcommand.ErrContext):
		return nil, armerror.New(armerror.InvalidParameter, "%v", err).WithTarget("context")
	case errors.Is(err, runcommand.ErrBusy):
		return nil, armerror.New("TooManyRequests", "Too many commands run in managed cluster %s. Try again when one has ended.", r.ID.Name()).WithStatus(http.StatusTooManyRequests)
	case err != nil:
		return nil, err
	}
	return &resourcetype.Response{
		Status: http.StatusAccepted, Location: r.ID.String() + "/commandResults/" + id,
		Body: object{"id": id, "properties": object{"provisioningState": runcommand.Running}},
	}, nil
}

// commandResult is GET commandResults/ID: 202 as long as the command runs. A client's poller wants a body all the same.
func (t service) commandResult(ctx context.Context, r *resourcetype.EndpointRequest) (any, error) {
	if len(r.Names) != 2 {
		return nil, armerror.New(armerror.NotFound, "Commands are found by their IDs only.")
	}
	id := r.Scope.Resource(Name, r.Names[0])
	missing := func(id resourceid.ID) error {
		path := strings.TrimPrefix(id.String(), id.GroupID().String()+"/providers/")
		return armerror.New(armerror.ResourceNotFound, "The Resource '%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", path, id.ResourceGroup())
	}
	var m Model
	if err := r.Documents.Get(ctx, id, &m); errors.Is(err, resourcestore.ErrNotFound) || err == nil && m.Memory == nil {
		return nil, missing(id)
	} else if err != nil {
		return nil, fmt.Errorf("read %s: %w", id, err)
	}
	result, err := t.Commands.Result(m.Memory.ClusterID, r.Names[1])
	if errors.Is(err, runcommand.ErrNotFound) {
		return nil, missing(id.Child("commandResults", r.Names[1]))
	}
	if err != nil {
		return nil, err
	}
	properties := object{"provisioningState": result.State}
	answer := &resourcetype.Response{Status: http.StatusOK, Body: object{"id": r.Names[1], "properties": properties}}
	switch {
	case result.State == runcommand.Running:
		answer.Status, answer.Location = http.StatusAccepted, id.Child("commandResults", r.Names[1]).String()
	case result.NotStarted:
		return nil, armerror.New("KubernetesPerformanceError", "Failed to run command due to cluster perf issue, container command-%s in aks-command namespace did not start within 60s on your cluster, retry may helps. If issue persist, you may need to tune your cluster with better performance (larger node/paid tier). %s", r.Names[1], result.Reason)
	case result.State == runcommand.Failed:
		return nil, armerror.New("KubernetesOperationError", "Failed to run command in managed cluster due to kubernetes failure. details: %s", result.Reason)
	default:
		properties["exitCode"], properties["logs"] = result.ExitCode, result.Logs
		properties["startedAt"], properties["finishedAt"] = result.StartedAt.Format(time.RFC3339), result.FinishedAt.Format(time.RFC3339)
	}
	return answer, nil
}
