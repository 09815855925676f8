package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/engine/identity"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

const administration = "/cloister/v1/"

// tokenLife is that of the tokens the administration socket gives; a command asks for one each time.
const tokenLife = time.Hour

// withoutAdministration keeps the administration API off every listener but the socket.
func withoutAdministration(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(strings.ToLower(r.URL.Path), strings.TrimSuffix(administration, "/")) {
			http.NotFound(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// handler answers ARM, and the administration API beside it.
func (s *Service) handler(directory http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", s.whenReady(s.API.Handler()))
	// Whoever is on the socket finds the directory under its own name, as those outside do.
	mux.Handle("graph.microsoft.com/", s.whenReady(directory))
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) (any, error){
		"GET " + administration + "status":   s.adminStatus,
		"GET " + administration + "ready":    s.adminReady,
		"POST " + administration + "token":   s.adminToken,
		"GET " + administration + "timeline": s.adminTimeline,
		"GET " + administration + "why":      s.adminWhy,
		"GET " + administration + "credentials": func(http.ResponseWriter, *http.Request) (any, error) {
			return adminapi.Credentials{Login: *s.instance.login(), CABundle: string(s.root.CertPEM)}, nil
		},
		"GET " + administration + "nodelog": s.adminNodeLog,
		"POST " + administration + "exit": func(http.ResponseWriter, *http.Request) (any, error) {
			go s.exit()
			return struct{}{}, nil
		},
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := h(w, r)
			writeAdmin(w, answer, err, s)
		})
	}
	mux.HandleFunc("POST "+administration+"sessions", s.adminSession)
	return mux
}

// whenReady holds requests back until the machine is what the documents say.
func (s *Service) whenReady(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-s.ready:
		case <-r.Context().Done():
			return
		}
		if err := s.trouble(); err != nil {
			writeAdmin(w, nil, fmt.Errorf("Cloister did not start: %w", err), s)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Service) trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

func writeAdmin(w http.ResponseWriter, answer any, err error, s *Service) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		e, ok := armerror.As(err)
		if !ok {
			// The socket is the administrator's: the cause may be told.
			e = armerror.New(armerror.InternalServerError, "%v", err)
			s.Log.Error("administration call failed", "error", err)
		}
		w.WriteHeader(e.HTTPStatus())
		answer = armerror.Body{Error: e}
	}
	if answer == nil {
		return
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.Log.Debug("write an answer", "error", err)
	}
}

func (s *Service) adminReady(w http.ResponseWriter, r *http.Request) (any, error) {
	select {
	case <-s.ready:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return s.adminStatus(w, r)
}

func (s *Service) adminToken(_ http.ResponseWriter, r *http.Request) (any, error) {
	var request struct {
		Resource string `json:"resource"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 4<<10)).Decode(&request); err != nil {
		return nil, armerror.New(armerror.InvalidRequestContent, "The request is not JSON: %v", err)
	}
	if request.Resource == "" {
		request.Resource = "https://management.azure.com/"
	}
	a := s.instance.Administrator
	token, err := s.issuer.Issue(identity.Claims{TenantID: s.instance.TenantID, ObjectID: a.ObjectID, AppID: a.AppID, Audience: request.Resource, Lifetime: tokenLife, Name: a.Name})
	if err != nil {
		return nil, err
	}
	return adminapi.Token{AccessToken: token.Value, ExpiresIn: int(tokenLife.Seconds()), SubscriptionID: s.instance.SubscriptionID, TenantID: s.instance.TenantID}, nil
}

func (s *Service) adminStatus(_ http.ResponseWriter, r *http.Request) (any, error) {
	ctx := r.Context()
	st := adminapi.Status{
		Version: s.Version, Program: s.Program, Instance: s.instance.ID, DataDir: s.DataDir, TenantID: s.instance.TenantID,
		SubscriptionID: s.instance.SubscriptionID, Since: s.started,
		Processes: []adminapi.ProcessStatus{}, Clusters: []adminapi.ClusterStatus{}, Public: []adminapi.PublicCount{},
	}
	select {
	case <-s.ready:
		st.Ready = true
	default:
		return st, nil
	}
	if err := s.trouble(); err != nil {
		st.Ready, st.Problem = false, err.Error()
		return st, nil
	}
	s.mu.Lock()
	st.Listen = s.listening
	if s.degraded != nil {
		st.Problem = s.degraded.Error()
	}
	s.mu.Unlock()
	if pid, err := s.daemon.PID(); err == nil {
		st.Processes = append(st.Processes, adminapi.ProcessStatus{Name: "containerd", State: running(pid != 0), PID: uint32(pid)})
	}
	containers, err := s.containers.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		st.Processes = append(st.Processes, adminapi.ProcessStatus{Name: c.ID, State: running(c.Running), PID: uint32(c.PID), Restarts: c.Restarts})
	}
	if st.Clusters, err = s.clusterStatus(ctx); err != nil {
		return nil, err
	}
	counters, err := s.fabric.Counters(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range counters.Public {
		st.Public = append(st.Public, adminapi.PublicCount{Destination: a.Destination.String(), Packets: a.Packets})
	}
	return st, nil
}

func running(yes bool) string {
	if yes {
		return "running"
	}
	return "stopped"
}

// clusterStatus reads clusters and nodes from their documents, and the nodes' state from the machine.
func (s *Service) clusterStatus(ctx context.Context) ([]adminapi.ClusterStatus, error) {
	out := []adminapi.ClusterStatus{}
	clusters, err := s.store.List(ctx, resourcestore.Filter{Type: "Microsoft.ContainerService/managedClusters"})
	if err != nil {
		return nil, err
	}
	for _, r := range clusters {
		var doc struct {
			Properties struct {
				ProvisioningState, CurrentKubernetesVersion string
				NetworkProfile                              struct{ OutboundType string }
				BootstrapProfile                            struct{ ArtifactSource string }
			}
		}
		if err := json.Unmarshal(r.Body, &doc); err != nil {
			return nil, err
		}
		c := adminapi.ClusterStatus{
			ID: r.ID.String(), Name: r.ID.Name(), ResourceGroup: r.ID.ResourceGroup(), ProvisioningState: doc.Properties.ProvisioningState,
			KubernetesVersion: doc.Properties.CurrentKubernetesVersion, OutboundType: doc.Properties.NetworkProfile.OutboundType,
			ArtifactSource: doc.Properties.BootstrapProfile.ArtifactSource, Nodes: []adminapi.NodeStatus{},
		}
		machines, err := s.machines(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		var outdated map[string]string
		if c.Warnings, outdated, err = s.diagnoser.Told(ctx, r.ID); err != nil {
			return nil, err
		}
		for _, m := range machines {
			n := adminapi.NodeStatus{Name: m.Name, Pool: m.pool, Address: m.address, Registry: m.RegistryServer, State: "starting", ReimageDue: outdated[m.Name]}
			if result, err := s.nodes.Provision(m.ID); err == nil && result.Done {
				n.State = "provisioned"
				if result.ExitCode != 0 {
					n.State = fmt.Sprintf("failed, exit code %d", result.ExitCode)
				}
			}
			switch {
			case m.off:
				n.State = "stopped"
			case m.Leaving:
				n.State = "leaving"
			case m.Phase != "":
				n.State = "being renewed: " + m.Phase
			}
			c.Nodes = append(c.Nodes, n)
		}
		out = append(out, c)
	}
	return out, nil
}

// machineView is a node as its pool's document has it.
type machineView struct {
	ID, Name, NIC, RegistryServer, Phase string
	Leaving                              bool
	pool, address                        string
	off                                  bool
}

func (s *Service) machines(ctx context.Context, cluster resourceid.ID) ([]machineView, error) {
	pools, err := s.store.List(ctx, resourcestore.Filter{Under: cluster, Type: "Microsoft.ContainerService/managedClusters/agentPools"})
	if err != nil {
		return nil, err
	}
	var out []machineView
	for _, p := range pools {
		var doc struct {
			Cloister struct {
				Off      bool
				Machines []machineView
			}
		}
		if err := json.Unmarshal(p.Body, &doc); err != nil {
			return nil, err
		}
		for _, m := range doc.Cloister.Machines {
			m.pool, m.off = p.ID.Name(), doc.Cloister.Off
			if id, err := resourceid.Parse(m.NIC); err == nil {
				var nic struct {
					Properties struct {
						IPConfigurations []struct {
							Properties struct{ PrivateIPAddress string }
						}
					}
				}
				if r, err := s.store.Get(ctx, id); err == nil && json.Unmarshal(r.Body, &nic) == nil && len(nic.Properties.IPConfigurations) > 0 {
					m.address = nic.Properties.IPConfigurations[0].Properties.PrivateIPAddress
				}
			}
			out = append(out, m)
		}
	}
	return out, nil
}

func (s *Service) adminTimeline(_ http.ResponseWriter, r *http.Request) (any, error) {
	ctx := r.Context()
	id, err := resourceid.Parse(r.URL.Query().Get("resource"))
	if err != nil {
		return nil, armerror.New(armerror.InvalidParameter, "%v", err)
	}
	t, err := s.timeline(ctx, id)
	if errors.Is(err, resourcestore.ErrNotFound) {
		return nil, armerror.New(armerror.ResourceNotFound, "There has been no operation on %s.", id)
	}
	return t, err
}

func (s *Service) adminNodeLog(_ http.ResponseWriter, r *http.Request) (any, error) {
	name := r.URL.Query().Get("node")
	clusters, err := s.store.List(r.Context(), resourcestore.Filter{Type: "Microsoft.ContainerService/managedClusters"})
	if err != nil {
		return nil, err
	}
	for _, c := range clusters {
		machines, err := s.machines(r.Context(), c.ID)
		if err != nil {
			return nil, err
		}
		for _, m := range machines {
			if m.Name != name {
				continue
			}
			which := "provision"
			if r.URL.Query().Has("result") {
				which = "result"
			}
			log, err := s.nodes.Logs(m.ID, which)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, armerror.New(armerror.ResourceNotFound, "Node %s has not written that yet.", name)
			}
			if err != nil {
				return nil, err
			}
			defer log.Close()
			data, err := io.ReadAll(io.LimitReader(log, 8<<20))
			return map[string]string{"log": string(data)}, err
		}
	}
	return nil, armerror.New(armerror.ResourceNotFound, "There is no node %q; `cloister status` lists them.", name)
}
