// Package approver decides a cluster's requests for kubelet serving certificates. kube-controller-manager
// signs them but approves client certificates only: whether a name and an address are a node's own is
// known to whoever made the node.
//
// It watches the cluster's API for as long as it runs and outlives every absence of the API server. It does
// not know how the API server is reached; the caller connects.
//
// https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/#certificate-rotation
package approver

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	client "k8s.io/client-go/kubernetes/typed/certificates/v1"
)

// Reasons written into a decided request.
const (
	reasonApproved = "NodeServingCertificate"
	reasonDenied   = "NotTheNodesOwn"
)

const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 2 * time.Second
	// watchTimeout ends a watch whose API server vanished without a word.
	watchTimeout = 5 * time.Minute
)

// Connect returns a client of the cluster's API. It is called again after every failure, so that new
// credentials are taken up.
type Connect func() (client.CertificateSigningRequestInterface, error)

// Approver decides requests of one cluster.
type Approver struct {
	connect Connect
	log     *slog.Logger
	changed chan struct{} // holds one: the nodes changed

	mu    sync.Mutex
	nodes map[string]Node
}

// New returns an Approver that knows no nodes yet.
func New(connect Connect, log *slog.Logger) *Approver {
	return &Approver{connect: connect, log: log, changed: make(chan struct{}, 1)}
}

// SetNodes makes these the cluster's nodes. Requests that waited for one of them are decided now.
func (a *Approver) SetNodes(nodes []Node) {
	byName := make(map[string]Node, len(nodes))
	for _, n := range nodes {
		byName[n.Name] = n
	}
	a.mu.Lock()
	a.nodes = byName
	a.mu.Unlock()
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// Run decides requests until ctx ends.
func (a *Approver) Run(ctx context.Context) error {
	backoff := minBackoff
	failing := false
	for {
		began := time.Now()
		err := a.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		// An API server that is away is the ordinary state of a cluster that starts or is stopped: it is
		// told once and not at every try.
		if err != nil && !failing {
			a.log.InfoContext(ctx, "certificate requests cannot be watched; trying again until they can", "error", err)
		}
		failing = err != nil
		if err == nil || time.Since(began) > maxBackoff {
			backoff = minBackoff
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff/2 + rand.N(backoff/2)):
		}
		if err != nil {
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// watch decides all requests there are and all that come, until the watch ends.
func (a *Approver) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	requests, err := a.connect()
	if err != nil {
		return fmt.Errorf("connect to the API server: %w", err)
	}
	selector := fields.OneTermEqualSelector("spec.signerName", certificates.KubeletServingSignerName).String()
	list, err := requests.List(ctx, meta.ListOptions{FieldSelector: selector})
	if err != nil {
		return fmt.Errorf("list certificate requests: %w", err)
	}
	// Those that wait for their node.
	waiting := map[string]*certificates.CertificateSigningRequest{}
	for i := range list.Items {
		if err := a.handle(ctx, requests, &list.Items[i], waiting); err != nil {
			return err
		}
	}
	timeout := int64(watchTimeout / time.Second)
	stream, err := requests.Watch(ctx, meta.ListOptions{
		FieldSelector: selector, ResourceVersion: list.ResourceVersion, TimeoutSeconds: &timeout, AllowWatchBookmarks: true,
	})
	if err != nil {
		return fmt.Errorf("watch certificate requests: %w", err)
	}
	defer stream.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.changed:
			for _, r := range waiting {
				if err := a.handle(ctx, requests, r, waiting); err != nil {
					return err
				}
			}
		case event, ok := <-stream.ResultChan():
			if !ok {
				return nil // ended in order, by its timeout
			}
			r, isRequest := event.Object.(*certificates.CertificateSigningRequest)
			switch {
			case event.Type == watch.Error:
				return fmt.Errorf("watch certificate requests: %w", apierrors.FromObject(event.Object))
			case isRequest && (event.Type == watch.Added || event.Type == watch.Modified):
				if err := a.handle(ctx, requests, r, waiting); err != nil {
					return err
				}
			case isRequest && event.Type == watch.Deleted:
				delete(waiting, r.Name)
			}
		}
	}
}

// handle decides one request, unless that has been done.
func (a *Approver) handle(ctx context.Context, requests client.CertificateSigningRequestInterface, r *certificates.CertificateSigningRequest, waiting map[string]*certificates.CertificateSigningRequest) error {
	delete(waiting, r.Name)
	if r.Spec.SignerName != certificates.KubeletServingSignerName || decided(r) {
		return nil
	}
	a.mu.Lock()
	nodes := a.nodes
	a.mu.Unlock()
	verdict, why := decide(&r.Spec, nodes)
	condition := certificates.CertificateSigningRequestCondition{Status: core.ConditionTrue, Message: why}
	switch verdict {
	case wait:
		waiting[r.Name] = r
		a.log.InfoContext(ctx, "a serving certificate request waits", "request", r.Name, "reason", why)
		return nil
	case approve:
		condition.Type, condition.Reason = certificates.CertificateApproved, reasonApproved
	case deny:
		condition.Type, condition.Reason = certificates.CertificateDenied, reasonDenied
	}
	r = r.DeepCopy()
	r.Status.Conditions = append(r.Status.Conditions, condition)
	_, err := requests.UpdateApproval(ctx, r.Name, r, meta.UpdateOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // gone, or changed: the watch brings the new state
	case err != nil:
		return fmt.Errorf("decide certificate request %s: %w", r.Name, err)
	}
	a.log.InfoContext(ctx, "serving certificate request decided", "request", r.Name, "user", r.Spec.Username, "decision", condition.Type, "reason", why)
	return nil
}

func decided(r *certificates.CertificateSigningRequest) bool {
	for _, c := range r.Status.Conditions {
		if c.Type == certificates.CertificateApproved || c.Type == certificates.CertificateDenied {
			return true
		}
	}
	return false
}
