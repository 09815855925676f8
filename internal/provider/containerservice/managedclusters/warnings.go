package managedclusters

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// The arguments of az with which a cluster is moved to another registry.
const (
	argumentSource   = "--bootstrap-artifact-source"
	argumentRegistry = "--bootstrap-container-registry-resource-id"
)

// ignored are the arguments of a command line that az did not send: it drops the registry's ID where the artifact
// source is not named along with it, and says nothing (https://github.com/Azure/azure-cli/issues/31209).
func ignored(arguments []string) []string {
	if said(arguments, argumentRegistry) && !said(arguments, argumentSource) {
		return []string{argumentRegistry}
	}
	return nil
}

// said tells whether a command line has the argument, whose name az also takes cut short where it is still like no other.
func said(arguments []string, name string) bool {
	return slices.ContainsFunc(arguments, func(typed string) bool {
		return len(typed) > len("--bootstrap-") && strings.HasPrefix(name, typed)
	})
}

// warningTime bounds how long an operation that is done waits for what there is to warn of.
const warningTime = 5 * time.Second

// report is what the operation tells along with its success: nil where there is nothing to tell. That nobody could
// find out is no failure of the operation.
func (t service) report(ctx context.Context, id resourceid.ID) any {
	if t.Warnings == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, warningTime)
	defer cancel()
	warnings, err := t.Warnings(ctx, id)
	if err != nil || len(warnings) == 0 {
		return nil
	}
	return adminapi.WriteReport{Warnings: warnings}
}
