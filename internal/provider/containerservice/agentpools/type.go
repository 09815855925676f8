// Package agentpools is Microsoft.ContainerService/managedClusters/agentPools: groups of equal nodes of a
// cluster. It knows its cluster by the documents alone.
//
// Written after https://learn.microsoft.com/rest/api/aks/agent-pools and the node bootstrap of
// Azure/AgentBaker, which package engine/node follows.
package agentpools

import (
	"context"
	"sync"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/engine/controlplane"
	"github.com/cloister-dev/cloister/internal/engine/node"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/operationreport"
)

// Name is the resource type.
const Name = "Microsoft.ContainerService/managedClusters/agentPools"

// Nodes runs machines.
type Nodes interface {
	// Set makes the node exist and run; it returns when its first process runs.
	Set(ctx context.Context, c node.Config) error
	// Remove ends the node and deletes its disk. Nothing there is no error.
	Remove(ctx context.Context, id string) error
	// Provisioned returns how provisioning of the node ended, when it has.
	Provisioned(ctx context.Context, id string) (bootstrap.Result, error)
}

// ControlPlane is a cluster's API server, as far as its nodes are concerned.
type ControlPlane interface {
	// Join is what a kubelet joins the cluster with: the PEM of the cluster's certificate authority, and a bootstrap token.
	Join(ctx context.Context, clusterID string) (ca, token string, err error)
	// NodesReady returns when every named node is Ready.
	NodesReady(ctx context.Context, clusterID string, names []string) error
	// ChangeNode gives a registered node's object labels and taints, and takes others away.
	ChangeNode(ctx context.Context, clusterID, name string, change controlplane.NodeChange) error
	// Drain evicts what runs on the node. When a disruption budget or a pod has held it up for the time given, the
	// error is a *controlplane.UndrainableError; 0 is as long as it takes. A node that is not there is no error.
	Drain(ctx context.Context, clusterID, name string, timeout time.Duration) error
	// DeleteNode deletes the node's object, and what is left of its pods.
	DeleteNode(ctx context.Context, clusterID, name string) error
}

// Deps are what the type is made of.
type Deps struct {
	Nodes        Nodes
	ControlPlane ControlPlane
	// Versions are the Kubernetes versions there are, oldest first.
	Versions []string
	// FirstRange is where the search for a node's user ids begins, in ranges of UIDCount: installations on one
	// machine do not know of each other's.
	FirstRange uint32
	// NodeImageVersion names the node image that new nodes are made from, and Rootfs is its file system.
	NodeImageVersion string
	Rootfs           string
	// AuthorityPEM is the installation's own certificate authority.
	AuthorityPEM              string
	TenantID                  string
	CredentialProviderVersion string
	// CachedImages are bootstrap.Config's, for a version of Kubernetes.
	CachedImages func(version string) []string
	// AzureTiming tells whether a node that is provisioned now waits as long as Azure's for what does not answer.
	AzureTiming func() (bool, error)
	// Reports is what operations tell along with how they ended.
	Reports operationreport.Source
}

type service struct {
	Deps
	// choosing is held from looking for free addresses or ids until they are stored: pools are made at the same time.
	choosing *sync.Mutex
}

// Type returns the resource type.
func Type(d Deps) resourcetype.Definition {
	t := service{d, new(sync.Mutex)}
	return resourcetype.Define(resourcetype.Spec[Model]{
		Name:          Name,
		Placement:     resourcetype.Inherited,
		NameRule:      nameRule,
		NameCode:      "InvalidParameter",
		NameMessage:   "The value of parameter agentPoolProfile.name is invalid. A Linux agent pool name starts with a lower-case letter and has 1 to 12 lower-case letters and digits. Please see https://aka.ms/aks-naming-rules for more details.",
		BusyCode:      armerror.OperationNotAllowed,
		Prepare:       t.prepare,
		PrepareDelete: t.prepareDelete,
		References:    references,
		Reconcile:     t.reconcile,
		Actions: map[string]resourcetype.Action[Model]{
			"upgradeNodeImageVersion": {Handle: t.upgradeNodeImage},
			"deleteMachines":          {Handle: t.deleteMachines},
		},
	})
}
