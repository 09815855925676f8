package controlplane

import (
	"bytes"
	"context"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"

	"github.com/cloister-dev/cloister/internal/lib/pki"
	"golang.org/x/sync/errgroup"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
)

//go:embed manifests/*.yaml
var manifests embed.FS

// fieldManager owns, in the sense of server-side apply, what the manifests say and nothing else: what
// a user adds to an add-on's objects stays.
const fieldManager = "cloister"

// kind says how a kind of the manifests is addressed; asking the API server would take fifty requests.
type kind struct {
	resource  string
	clustered bool
}

var kinds = map[string]kind{
	"Namespace":          {"namespaces", true},
	"Secret":             {"secrets", false},
	"ConfigMap":          {"configmaps", false},
	"Service":            {"services", false},
	"ServiceAccount":     {"serviceaccounts", false},
	"Deployment":         {"deployments", false},
	"DaemonSet":          {"daemonsets", false},
	"ClusterRole":        {"clusterroles", true},
	"ClusterRoleBinding": {"clusterrolebindings", true},
	"Role":               {"roles", false},
	"RoleBinding":        {"rolebindings", false},
	"APIService":         {"apiservices", true},
}

// values fill the manifests' templates.
type values struct {
	Images                              Images
	TokenID, TokenSecret                string
	UserKubeletClient, UserApprover     string
	ServerURL, PodCIDRs, DNSServiceIP   string
	CoreDNSReplicas                     int
	MetricsServerCert, MetricsServerKey string // base64
	CABundle                            string // base64
}

func (e *Engine) values(c Config) (values, error) {
	token, err := e.BootstrapToken(c.ID)
	if err != nil {
		return values{}, err
	}
	id, secret, _ := strings.Cut(token, ".")
	ca, err := e.CertificateAuthority(c.ID)
	if err != nil {
		return values{}, err
	}
	metrics, err := pki.Load(e.path(c.ID, "clients"), "metrics-server")
	if err != nil {
		return values{}, err
	}
	var cidrs []string
	for _, p := range c.PodCIDRs {
		cidrs = append(cidrs, p.String())
	}
	v := values{
		Images:  c.Images,
		TokenID: id, TokenSecret: secret,
		UserKubeletClient: userKubeletClient, UserApprover: userApprover,
		ServerURL: c.serverURL(), DNSServiceIP: c.DNSServiceIP.String(),
		CoreDNSReplicas:   1,
		MetricsServerCert: base64.StdEncoding.EncodeToString(metrics.CertPEM),
		MetricsServerKey:  base64.StdEncoding.EncodeToString(metrics.KeyPEM),
		CABundle:          base64.StdEncoding.EncodeToString(ca),
	}
	// kube-proxy takes one prefix per address family.
	if len(cidrs) > 0 {
		v.PodCIDRs = cidrs[0]
	}
	if c.Nodes > 1 {
		v.CoreDNSReplicas = 2
	}
	return v, nil
}

// stage is when an object of the manifests is applied.
type stage int

const (
	standing  stage = iota // as soon as the API server answers
	workloads              // when there are nodes to run them
	joining                // when controllers let nodes in
)

func stageOf(object *unstructured.Unstructured) stage {
	switch {
	case object.GetKind() == "Deployment":
		return workloads
	case strings.HasPrefix(object.GetName(), "bootstrap-token-"):
		return joining
	}
	return standing
}

// applyAddons applies the manifests' objects of these stages.
func (e *Engine) applyAddons(ctx context.Context, c Config, stages ...stage) error {
	v, err := e.values(c)
	if err != nil {
		return err
	}
	objects, err := render(v)
	if err != nil {
		return err
	}
	config, err := e.Client(c.ID)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	// The API server makes the namespace itself, a little later than it is ready.
	namespace := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "kube-system"},
	}}
	if err := apply(ctx, client, namespace); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, object := range objects {
		if slices.Contains(stages, stageOf(object)) {
			g.Go(func() error { return apply(ctx, client, object) })
		}
	}
	return g.Wait()
}

func apply(ctx context.Context, client dynamic.Interface, object *unstructured.Unstructured) error {
	resource, err := resourceFor(client, object)
	if err != nil {
		return err
	}
	if _, err := resource.Apply(ctx, object.GetName(), object, meta.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("apply %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return nil
}

// resourceFor is where objects like this one are.
func resourceFor(client dynamic.Interface, object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	k, ok := kinds[object.GetKind()]
	if !ok {
		return nil, fmt.Errorf("a manifest of unknown kind %s", object.GetKind())
	}
	gv, err := schema.ParseGroupVersion(object.GetAPIVersion())
	if err != nil {
		return nil, err
	}
	resource := client.Resource(gv.WithResource(k.resource))
	if k.clustered {
		return resource, nil
	}
	return resource.Namespace(object.GetNamespace()), nil
}

// render fills the templates. The order is that of the files: who may join comes first.
func render(v values) ([]*unstructured.Unstructured, error) {
	set, err := template.New("").Option("missingkey=error").ParseFS(manifests, "manifests/*.yaml")
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for _, name := range []string{"access.yaml", "kube-proxy.yaml", "coredns.yaml", "metrics-server.yaml"} {
		var b bytes.Buffer
		if err := set.ExecuteTemplate(&b, name, v); err != nil {
			return nil, err
		}
		documents := yaml.NewYAMLOrJSONDecoder(&b, 4096)
		for {
			object := &unstructured.Unstructured{}
			err := documents.Decode(&object.Object)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if len(object.Object) > 0 {
				out = append(out, object)
			}
		}
	}
	return out, nil
}
