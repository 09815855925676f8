package managedclusters

import (
	"slices"
	"strings"
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
