{{/* What the pods of the RayCluster have in common.  Arguments come as a dict: root (the chart's context), component,
     spec (the section of the values), shmSize, and serves: whether Tandem runs in the pod, which the head's does not. */}}

{{- define "tandem.podLabels" -}}
{{ include "tandem.selector" .root }}
tandem/component: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/part-of: {{ .root.Chart.Name }}
{{- end -}}

{{- define "tandem.podBase" -}}
serviceAccountName: {{ default (include "tandem.fullname" .root) .account }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
  # Tandem's worker listeners take ephemeral ports; this keeps them within what the NetworkPolicies open.
  sysctls:
    - name: net.ipv4.ip_local_port_range
      value: {{ printf "%d %d" (int .root.Values.ports.workers.first) (int .root.Values.ports.workers.last) | quote }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .spec.scheduling }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "tandem.containerSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  privileged: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tandem.env" -}}
# The operator adds the token itself (RAY_AUTH_TOKEN) and leaves alone what is set here.
- {name: RAY_AUTH_MODE, value: token}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: HOME, value: /home/tandem}
{{- if .serves }}
{{- with .root.Values.ray.faultTolerance }}
{{- if .redisAddress }}
# Read by Ray's nodes and by Tandem's own processes that joined them; the head goes by Ray's default.
- {name: RAY_gcs_rpc_server_reconnect_timeout_s, value: {{ int .headAwaySeconds | quote }}}
{{- end }}
{{- end }}
- {name: XDG_CACHE_HOME, value: /var/cache/tandem}
- {name: HF_HOME, value: /var/cache/tandem/huggingface}
- {name: TRITON_CACHE_DIR, value: /var/cache/tandem/triton}
{{- if .root.Values.model.hubTokenSecret }}
- {name: HF_TOKEN_PATH, value: /etc/tandem/hub/token}
{{- end }}
{{- end }}
{{- end -}}

{{/* requests = limits: a pod of the Guaranteed class is the last one to be evicted or throttled by a neighbour. */}}
{{- define "tandem.resources" -}}
{{- $gpus := int (default 0 .spec.gpusPerWorker) -}}
resources:
  {{- range $kind := list "limits" "requests" }}
  {{ $kind }}:
    cpu: {{ int $.spec.resources.cpu }}
    memory: {{ $.spec.resources.memory }}
    ephemeral-storage: {{ $.spec.resources.ephemeralStorage }}
    {{- if gt $gpus 0 }}
    {{ $.spec.gpuResourceName }}: {{ $gpus }}
    {{- end }}
  {{- end }}
{{- end -}}

{{- define "tandem.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /home/tandem}
- {name: shm, mountPath: /dev/shm}
{{- if .serves }}
- {name: cache, mountPath: /var/cache/tandem}
{{- if .root.Values.model.hubTokenSecret }}
- {name: hub-token, mountPath: /etc/tandem/hub, readOnly: true}
{{- end }}
{{- if .root.Values.redis.enabled }}
- {name: redis-url, mountPath: /etc/tandem/redis, readOnly: true}
{{- end }}
{{- if .root.Values.internalTls.secretName }}
- {name: internal-tls, mountPath: /etc/tandem/mtls, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "tandem.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
- name: home
  emptyDir: {sizeLimit: 64Mi}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .shmSize }}}
{{- if .serves }}
- name: cache
  {{- if .root.Values.model.cache.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .root.Values.model.cache.existingClaim }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .root.Values.model.cache.sizeLimit }}}
  {{- end }}
{{- with .root.Values.model.hubTokenSecret }}
- name: hub-token
  secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: token, path: token}]}
{{- end }}
{{- if .root.Values.redis.enabled }}
- name: redis-url
  secret:
    secretName: {{ .root.Values.redis.urlSecret.name }}
    defaultMode: 0440
    items: [{key: {{ .root.Values.redis.urlSecret.key }}, path: url}]
{{- end }}
{{- with .root.Values.internalTls.secretName }}
- name: internal-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- end -}}

{{/* Every port of a Ray node is named: a port that Ray picks could not be opened in a NetworkPolicy. */}}
{{- define "tandem.rayStartParams" -}}
node-manager-port: {{ int .root.Values.ports.nodeManager | quote }}
object-manager-port: {{ int .root.Values.ports.objectManager | quote }}
runtime-env-agent-port: {{ int .root.Values.ports.runtimeEnvAgent | quote }}
dashboard-agent-grpc-port: {{ int .root.Values.ports.dashboardAgentGrpc | quote }}
dashboard-agent-listen-port: {{ int .root.Values.ports.dashboardAgentListen | quote }}
metrics-export-port: {{ int .root.Values.ports.rayMetrics | quote }}
min-worker-port: {{ int .root.Values.ports.rayWorkers.first | quote }}
max-worker-port: {{ int .root.Values.ports.rayWorkers.last | quote }}
# Prompts, tokens and KV never pass through Ray, so its object store stays near the smallest that Ray accepts.
object-store-memory: "104857600"
{{- end -}}

{{- define "tandem.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "tandem.selector" .root | nindent 8 }}
        tandem/component: {{ .component }}
        {{- with .group }}
        tandem/group: {{ . }}
        {{- end }}
{{- end -}}
