"""What stands in each request and answer that a client may see: Kafka's message schemas, in short.

A block per API: its key and name, ``>`` the request's body, ``<`` the answer's. Fields are in the order of the wire::

    name:type@versions=default      i8 to i64, u16, bool, f64, s (STRING), b (BYTES or RECORDS), u (UUID)
    name[fields]                    an array of structs
    name*[field]                    an array of plain values, each read as a struct of that one field
    name{fields}  name?{fields}     a struct; one that may be null

Versions are ``@3+``, ``@-2`` or ``@1-4``, none: all of the API's. Where strings and arrays may be null is not said: it
makes no difference to a reader. Defaults are those of answers that kproxy writes. Tagged fields are left out (readers
step over them); where a request and its answer mean the same thing they call it the same here (``topics``, ``name``,
``id``, ``partitions``, ``index``, ``group``, ``txn``, ``error``, ``message``), whatever Kafka's schemas call it.

Source: clients/src/main/resources/common/message of Kafka 3.9 to 4.3. Read by ``shapes``, which is tested against other
codecs for every version of every API. Never here: what a field means.
"""

SCHEMAS = """
0 Produce
  > txn:s@3+ acks:i16 timeout_ms:i32 topics[id:u@13+ name:s@-12 partitions[index:i32 records:b]]
  < topics[id:u@13+ name:s@-12 partitions[index:i32 error:i16 base_offset:i64=-1 log_append_time_ms:i64@2+=-1
    log_start_offset:i64@5+=-1 record_errors[batch_index:i32 batch_index_error_message:s=null]@8+
    message:s@8+=null]] throttle_time_ms:i32@1+
1 Fetch
  > replica_id:i32@-14 max_wait_ms:i32 min_bytes:i32
    max_bytes:i32@3+ isolation_level:i8@4+ session_id:i32@7+ session_epoch:i32@7+ topics[id:u@13+ name:s@-12
    partitions[index:i32 current_leader_epoch:i32@9+ fetch_offset:i64 last_fetched_epoch:i32@12+
    log_start_offset:i64@5+ partition_max_bytes:i32]] forgotten[id:u@13+ name:s@-12 partitions*[index:i32]]@7+
    rack_id:s@11+
  < throttle_time_ms:i32@1+ error:i16@7+ session_id:i32@7+ topics[id:u@13+ name:s@-12 partitions[index:i32 error:i16
    high_watermark:i64=-1 last_stable_offset:i64@4+=-1 log_start_offset:i64@5+=-1
    aborted_transactions[producer_id:i64 first_offset:i64]@4+ preferred_read_replica:i32@11+=-1 records:b]]
2 ListOffsets
  > replica_id:i32 isolation_level:i8@2+ topics[name:s partitions[index:i32 current_leader_epoch:i32@4+
    timestamp:i64 max_num_offsets:i32@-0]] timeout_ms:i32@10+
  < throttle_time_ms:i32@2+ topics[name:s partitions[index:i32 error:i16 timestamp:i64@1+=-1 offset:i64@1+=-1
    leader_epoch:i32@4+=-1 old_style_offsets*[value:i64]@-0]]
3 Metadata
  > topics[id:u@10+ name:s] allow_auto_topic_creation:bool@4+ include_cluster_authorized_operations:bool@8-10
    include_topic_authorized_operations:bool@8+
  < throttle_time_ms:i32@3+ brokers[node_id:i32 host:s port:i32 rack:s@1+=null] cluster_id:s@2+=null
    controller_id:i32@1+=-1 topics[error:i16 name:s id:u@10+ is_internal:bool@1+ partitions[error:i16 index:i32
    leader_id:i32 leader_epoch:i32@7+=-1 replica_nodes*[value:i32] isr_nodes*[value:i32]
    offline_replicas*[value:i32]@5+] topic_authorized_operations:i32@8+=-2147483648] error:i16@13+
    cluster_authorized_operations:i32@8-10=-2147483648
8 OffsetCommit
  > group:s generation_id_or_member_epoch:i32@1+ member_id:s@1+ group_instance_id:s@7+ retention_time_ms:i64@2-4
    topics[id:u@10+ name:s@-9 partitions[index:i32 committed_offset:i64 committed_leader_epoch:i32@6+
    commit_timestamp:i64@1-1 committed_metadata:s]]
  < throttle_time_ms:i32@3+ topics[id:u@10+ name:s@-9 partitions[index:i32 error:i16]]
9 OffsetFetch
  > groups[group:s member_id:s@9+ member_epoch:i32@9+ topics[id:u@10+ name:s@-9 partitions*[index:i32]]]@8+
    group:s@-7 topics[name:s partitions*[index:i32]]@-7 require_stable:bool@7+
  < throttle_time_ms:i32@3+ groups[group:s topics[id:u@10+ name:s@-9 partitions[index:i32 committed_offset:i64=-1
    committed_leader_epoch:i32=-1 metadata:s error:i16]] error:i16]@8+ topics[name:s partitions[index:i32
    committed_offset:i64=-1 committed_leader_epoch:i32@5+=-1 metadata:s error:i16]]@-7 error:i16@2-7
10 FindCoordinator
  > key:s@-3 key_type:i8@1+ coordinators*[key:s]@4+
  < throttle_time_ms:i32@1+ coordinators[key:s node_id:i32=-1 host:s port:i32=-1 error:i16 message:s]@4+
    error:i16@-3 message:s@1-3 node_id:i32@-3=-1 host:s@-3 port:i32@-3=-1
11 JoinGroup
  > group:s session_timeout_ms:i32 rebalance_timeout_ms:i32@1+ member_id:s group_instance_id:s@5+ protocol_type:s
    protocols[name:s metadata:b] reason:s@8+
  < throttle_time_ms:i32@2+ error:i16 generation_id:i32=-1 protocol_type:s@7+=null protocol_name:s leader:s
    skip_assignment:bool@9+ member_id:s members[member_id:s group_instance_id:s@5+=null metadata:b]
12 Heartbeat
  > group:s generation_id:i32 member_id:s group_instance_id:s@3+
  < throttle_time_ms:i32@1+ error:i16
13 LeaveGroup
  > group:s members[member_id:s group_instance_id:s reason:s@5+]@3+ member_id:s@-2
  < throttle_time_ms:i32@1+ error:i16 members[member_id:s group_instance_id:s error:i16]@3+
14 SyncGroup
  > group:s generation_id:i32 member_id:s group_instance_id:s@3+ protocol_type:s@5+ protocol_name:s@5+
    assignments[member_id:s assignment:b]
  < throttle_time_ms:i32@1+ error:i16 protocol_type:s@5+=null protocol_name:s@5+=null assignment:b
15 DescribeGroups
  > groups*[group:s] include_authorized_operations:bool@3+
  < throttle_time_ms:i32@1+ groups[error:i16 message:s@6+=null group:s group_state:s protocol_type:s protocol_data:s
    members[member_id:s group_instance_id:s@4+=null client_id:s client_host:s member_metadata:b member_assignment:b]
    authorized_operations:i32@3+=-2147483648]
16 ListGroups
  > states_filter*[value:s]@4+ types_filter*[value:s]@5+
  < throttle_time_ms:i32@1+ error:i16 groups[group:s protocol_type:s group_state:s@4+ group_type:s@5+]
19 CreateTopics
  > topics[name:s num_partitions:i32 replication_factor:i16 assignments[index:i32 broker_ids*[value:i32]]
    configs[name:s value:s]] timeout_ms:i32 validate_only:bool@1+
  < throttle_time_ms:i32@2+ topics[name:s id:u@7+ error:i16 message:s@1+ num_partitions:i32@5+=-1
    replication_factor:i16@5+=-1 configs[name:s value:s read_only:bool config_source:i8=-1 is_sensitive:bool]@5+]
20 DeleteTopics
  > topics[name:s id:u]@6+ topics*[name:s]@-5 timeout_ms:i32
  < throttle_time_ms:i32@1+ topics[name:s id:u@6+ error:i16 message:s@5+=null]
21 DeleteRecords
  > topics[name:s partitions[index:i32 offset:i64]] timeout_ms:i32
  < throttle_time_ms:i32 topics[name:s partitions[index:i32 low_watermark:i64=-1 error:i16]]
22 InitProducerId
  > txn:s transaction_timeout:i32@6+ transaction_timeout_ms:i32@-5 producer_id:i64@3+ producer_epoch:i16@3+
    enable2_pc:bool@6+ keep_prepared_txn:bool@6+
  < throttle_time_ms:i32 error:i16 producer_id:i64=-1 producer_epoch:i16 ongoing_txn_producer_id:i64@6+=-1
    ongoing_txn_producer_epoch:i16@6+=-1
23 OffsetForLeaderEpoch
  > replica_id:i32@3+ topics[name:s partitions[index:i32 current_leader_epoch:i32@2+ leader_epoch:i32]]
  < throttle_time_ms:i32@2+ topics[name:s partitions[error:i16 index:i32 leader_epoch:i32@1+=-1 end_offset:i64=-1]]
24 AddPartitionsToTxn
  > transactions[txn:s producer_id:i64 producer_epoch:i16 verify_only:bool topics[name:s partitions*[index:i32]]]@4+
    txn:s@-3 v3_and_below_producer_id:i64@-3 v3_and_below_producer_epoch:i16@-3 topics[name:s
    partitions*[index:i32]]@-3
  < throttle_time_ms:i32 error:i16@4+ transactions[txn:s topics[name:s partitions[index:i32 error:i16]]]@4+
    topics[name:s partitions[index:i32 error:i16]]@-3
25 AddOffsetsToTxn
  > txn:s producer_id:i64 producer_epoch:i16 group:s
  < throttle_time_ms:i32 error:i16
26 EndTxn
  > txn:s producer_id:i64 producer_epoch:i16 committed:bool
  < throttle_time_ms:i32 error:i16 producer_id:i64@5+=-1 producer_epoch:i16@5+=-1
28 TxnOffsetCommit
  > txn:s group:s producer_id:i64 producer_epoch:i16 generation_id:i32@3+ member_id:s@3+ group_instance_id:s@3+
    topics[name:s partitions[index:i32 committed_offset:i64 committed_leader_epoch:i32@2+ committed_metadata:s]]
  < throttle_time_ms:i32 topics[name:s partitions[index:i32 error:i16]]
29 DescribeAcls
  > resource_type_filter:i8 resource_name_filter:s pattern_type_filter:i8@1+ principal_filter:s host_filter:s
    operation:i8 permission_type:i8
  < throttle_time_ms:i32 error:i16 message:s resources[resource_type:i8 resource_name:s pattern_type:i8@1+
    acls[principal:s host:s operation:i8 permission_type:i8]]
30 CreateAcls
  > results[resource_type:i8 resource_name:s resource_pattern_type:i8@1+ principal:s host:s operation:i8
    permission_type:i8]
  < throttle_time_ms:i32 results[error:i16 message:s]
31 DeleteAcls
  > results[resource_type_filter:i8 resource_name_filter:s pattern_type_filter:i8@1+ principal_filter:s
    host_filter:s operation:i8 permission_type:i8]
  < throttle_time_ms:i32 results[error:i16 message:s matching_acls[error:i16 message:s resource_type:i8
    resource_name:s pattern_type:i8@1+ principal:s host:s operation:i8 permission_type:i8]]
32 DescribeConfigs
  > resources[type:i8 resource:s configuration_keys*[value:s]] include_synonyms:bool@1+
    include_documentation:bool@3+
  < throttle_time_ms:i32 resources[error:i16 message:s type:i8 resource:s configs[name:s value:s read_only:bool
    config_source:i8@1+=-1 is_default:bool@-0 is_sensitive:bool synonyms[name:s value:s source:i8]@1+
    config_type:i8@3+ documentation:s@3+]]
33 AlterConfigs
  > resources[type:i8 resource:s configs[name:s value:s]] validate_only:bool
  < throttle_time_ms:i32 resources[error:i16 message:s type:i8 resource:s]
34 AlterReplicaLogDirs
  > dirs[path:s topics[name:s partitions*[index:i32]]]
  < throttle_time_ms:i32 topics[name:s partitions[index:i32 error:i16]]
35 DescribeLogDirs
  > topics[name:s partitions*[index:i32]]
  < throttle_time_ms:i32 error:i16@3+ results[error:i16 log_dir:s topics[name:s partitions[index:i32
    partition_size:i64 offset_lag:i64 is_future_key:bool]] total_bytes:i64@4+=-1 usable_bytes:i64@4+=-1
    is_cordoned:bool@5+]
37 CreatePartitions
  > topics[name:s count:i32 assignments[broker_ids*[value:i32]]] timeout_ms:i32 validate_only:bool
  < throttle_time_ms:i32 topics[name:s error:i16 message:s=null]
38 CreateDelegationToken
  > owner_principal_type:s@3+ owner_principal_name:s@3+ renewers[principal_type:s principal_name:s]
    max_lifetime_ms:i64
  < error:i16 principal_type:s principal_name:s token_requester_principal_type:s@3+
    token_requester_principal_name:s@3+ issue_timestamp_ms:i64 expiry_timestamp_ms:i64 max_timestamp_ms:i64
    token_id:s hmac:b throttle_time_ms:i32
39 RenewDelegationToken
  > hmac:b renew_period_ms:i64
  < error:i16 expiry_timestamp_ms:i64 throttle_time_ms:i32
40 ExpireDelegationToken
  > hmac:b expiry_time_period_ms:i64
  < error:i16 expiry_timestamp_ms:i64 throttle_time_ms:i32
41 DescribeDelegationToken
  > owners[principal_type:s principal_name:s]
  < error:i16 tokens[principal_type:s principal_name:s token_requester_principal_type:s@3+
    token_requester_principal_name:s@3+ issue_timestamp:i64 expiry_timestamp:i64 max_timestamp:i64 token_id:s hmac:b
    renewers[principal_type:s principal_name:s]] throttle_time_ms:i32
42 DeleteGroups
  > groups*[group:s]
  < throttle_time_ms:i32 groups[group:s error:i16]
43 ElectLeaders
  > election_type:i8@1+ topics[name:s partitions*[index:i32]] timeout_ms:i32
  < throttle_time_ms:i32 error:i16@1+ topics[name:s partitions[index:i32 error:i16 message:s]]
44 IncrementalAlterConfigs
  > resources[type:i8 resource:s configs[name:s config_operation:i8 value:s]] validate_only:bool
  < throttle_time_ms:i32 resources[error:i16 message:s type:i8 resource:s]
45 AlterPartitionReassignments
  > timeout_ms:i32 allow_replication_factor_change:bool@1+ topics[name:s partitions[index:i32 replicas*[value:i32]]]
  < throttle_time_ms:i32 allow_replication_factor_change:bool@1+ error:i16 message:s topics[name:s
    partitions[index:i32 error:i16 message:s]]
46 ListPartitionReassignments
  > timeout_ms:i32 topics[name:s partitions*[index:i32]]
  < throttle_time_ms:i32 error:i16 message:s topics[name:s partitions[index:i32 replicas*[value:i32]
    adding_replicas*[value:i32] removing_replicas*[value:i32]]]
47 OffsetDelete
  > group:s topics[name:s partitions[index:i32]]
  < error:i16 throttle_time_ms:i32 topics[name:s partitions[index:i32 error:i16]]
48 DescribeClientQuotas
  > components[entity_type:s match_type:i8 match:s] strict:bool
  < throttle_time_ms:i32 error:i16 message:s entries[entity[entity_type:s entity_name:s] values[key:s value:f64]]
49 AlterClientQuotas
  > entries[entity[entity_type:s entity_name:s] ops[key:s value:f64 remove:bool]] validate_only:bool
  < throttle_time_ms:i32 entries[error:i16 message:s entity[entity_type:s entity_name:s]]
50 DescribeUserScramCredentials
  > users[name:s]
  < throttle_time_ms:i32 error:i16 message:s results[user:s error:i16 message:s credential_infos[mechanism:i8
    iterations:i32]]
51 AlterUserScramCredentials
  > deletions[name:s mechanism:i8] upsertions[name:s mechanism:i8 iterations:i32 salt:b salted_password:b]
  < throttle_time_ms:i32 results[user:s error:i16 message:s]
55 DescribeQuorum
  > topics[topic_name:s partitions[index:i32]]
  < error:i16 message:s@2+ topics[topic_name:s partitions[index:i32 error:i16 message:s@2+ leader_id:i32
    leader_epoch:i32 high_watermark:i64 current_voters[replica_id:i32 replica_directory_id:u@2+ log_end_offset:i64
    last_fetch_timestamp:i64@1+=-1 last_caught_up_timestamp:i64@1+=-1] observers[replica_id:i32
    replica_directory_id:u@2+ log_end_offset:i64 last_fetch_timestamp:i64@1+=-1
    last_caught_up_timestamp:i64@1+=-1]]] nodes[node_id:i32 listeners[name:s host:s port:u16]]@2+
57 UpdateFeatures
  > timeout_ms:i32 feature_updates[feature:s max_version_level:i16 upgrade_type:i8@1+ allow_downgrade:bool@-0]
    validate_only:bool@1+
  < throttle_time_ms:i32 error:i16 message:s results[feature:s error:i16 message:s]@-1
60 DescribeCluster
  > include_cluster_authorized_operations:bool endpoint_type:i8@1+ include_fenced_brokers:bool@2+
  < throttle_time_ms:i32 error:i16 message:s=null endpoint_type:i8@1+ cluster_id:s controller_id:i32=-1
    brokers[broker_id:i32 host:s port:i32 rack:s=null is_fenced:bool@2+]
    cluster_authorized_operations:i32=-2147483648
61 DescribeProducers
  > topics[name:s partitions*[index:i32]]
  < throttle_time_ms:i32 topics[name:s partitions[index:i32 error:i16 message:s=null
    active_producers[producer_id:i64 producer_epoch:i32 last_sequence:i32=-1 last_timestamp:i64=-1
    coordinator_epoch:i32 current_txn_start_offset:i64=-1]]]
64 UnregisterBroker
  > broker_id:i32
  < throttle_time_ms:i32 error:i16 message:s
65 DescribeTransactions
  > transactions*[txn:s]
  < throttle_time_ms:i32 transactions[error:i16 txn:s transaction_state:s transaction_timeout_ms:i32
    transaction_start_time_ms:i64 producer_id:i64 producer_epoch:i16 topics[name:s partitions*[index:i32]]]
66 ListTransactions
  > state_filters*[value:s] producer_id_filters*[value:i64] duration_filter:i64@1+ transactional_id_pattern:s@2+
  < throttle_time_ms:i32 error:i16 unknown_state_filters*[value:s] transactions[txn:s producer_id:i64
    transaction_state:s]
68 ConsumerGroupHeartbeat
  > group:s member_id:s member_epoch:i32 instance_id:s rack_id:s rebalance_timeout:i32@1+
    rebalance_timeout_ms:i32@-0 topics*[name:s] subscribed_topic_regex:s@1+ server_assignor:s topic_partitions[id:u
    partitions*[index:i32]]
  < throttle_time_ms:i32 error:i16 message:s=null member_id:s=null member_epoch:i32 heartbeat_interval:i32@1+
    heartbeat_interval_ms:i32@-0 assignment?{topic_partitions[id:u partitions*[index:i32]]}
69 ConsumerGroupDescribe
  > groups*[group:s] include_authorized_operations:bool
  < throttle_time_ms:i32 groups[error:i16 message:s=null group:s group_state:s group_epoch:i32 assignment_epoch:i32
    assignor_name:s members[member_id:s instance_id:s=null rack_id:s=null member_epoch:i32 client_id:s client_host:s
    subscribed_topic_names*[value:s] subscribed_topic_regex:s=null assignment{topic_partitions[id:u topic_name:s
    partitions*[index:i32]]} target_assignment{topic_partitions[id:u topic_name:s partitions*[index:i32]]}
    member_type:i8@1+=-1] authorized_operations:i32=-2147483648]
71 GetTelemetrySubscriptions
  > client_instance_id:u
  < throttle_time_ms:i32 error:i16 client_instance_id:u subscription_id:i32 accepted_compression_types*[value:i8]
    push_interval_ms:i32 telemetry_max_bytes:i32 delta_temporality:bool requested_metrics*[value:s]
72 PushTelemetry
  > client_instance_id:u subscription_id:i32 terminating:bool compression_type:i8 metrics:b
  < throttle_time_ms:i32 error:i16
74 ListConfigResources
  > resource_types*[value:i8]@1+
  < throttle_time_ms:i32 error:i16 config_resources[resource_name:s resource_type:i8@1+]
75 DescribeTopicPartitions
  > topics[name:s] response_partition_limit:i32 cursor?{topic_name:s index:i32}
  < throttle_time_ms:i32 topics[error:i16 name:s id:u is_internal:bool partitions[error:i16 index:i32 leader_id:i32
    leader_epoch:i32=-1 replica_nodes*[value:i32] isr_nodes*[value:i32] eligible_leader_replicas*[value:i32]
    last_known_elr*[value:i32] offline_replicas*[value:i32]] topic_authorized_operations:i32=-2147483648]
    next_cursor?{topic_name:s index:i32}
76 ShareGroupHeartbeat
  > group:s member_id:s member_epoch:i32 rack_id:s topics*[name:s]
  < throttle_time_ms:i32 error:i16 message:s=null member_id:s=null member_epoch:i32 heartbeat_interval:i32@1+
    heartbeat_interval_ms:i32@-0 assignment?{topic_partitions[id:u partitions*[index:i32]]}
77 ShareGroupDescribe
  > groups*[group:s] include_authorized_operations:bool
  < throttle_time_ms:i32 groups[error:i16 message:s=null group:s group_state:s group_epoch:i32 assignment_epoch:i32
    assignor_name:s members[member_id:s rack_id:s=null member_epoch:i32 client_id:s client_host:s
    subscribed_topic_names*[value:s] assignment{topic_partitions[id:u topic_name:s partitions*[index:i32]]}]
    authorized_operations:i32=-2147483648]
78 ShareFetch
  > group:s member_id:s share_session_epoch:i32 max_wait_ms:i32 min_bytes:i32 max_bytes:i32 max_records:i32@1+
    batch_size:i32@1+ share_acquire_mode:i8@2+ is_renew_ack:bool@2+ topics[id:u partitions[index:i32
    partition_max_bytes:i32@-0 acknowledgement_batches[first_offset:i64 last_offset:i64
    acknowledge_types*[value:i8]]]] forgotten_topics_data[id:u partitions*[index:i32]]
  < throttle_time_ms:i32 error:i16 message:s=null acquisition_lock_timeout:i32@1+ topics[id:u partitions[index:i32
    error:i16 message:s=null acknowledge_error_code:i16 acknowledge_error_message:s=null
    current_leader{leader_id:i32 leader_epoch:i32} records:b acquired_records[first_offset:i64 last_offset:i64
    delivery_count:i16]]] node_endpoints[node_id:i32 host:s port:i32 rack:s=null]
79 ShareAcknowledge
  > group:s member_id:s share_session_epoch:i32 is_renew_ack:bool@2+ topics[id:u partitions[index:i32
    acknowledgement_batches[first_offset:i64 last_offset:i64 acknowledge_types*[value:i8]]]]
  < throttle_time_ms:i32 error:i16 message:s=null acquisition_lock_timeout:i32@2+ topics[id:u partitions[index:i32
    error:i16 message:s=null current_leader{leader_id:i32 leader_epoch:i32}]] node_endpoints[node_id:i32 host:s
    port:i32 rack:s=null]
80 AddRaftVoter
  > cluster_id:s timeout_ms:i32 voter_id:i32 voter_directory_id:u listeners[name:s host:s port:u16]
    ack_when_committed:bool@1+
  < throttle_time_ms:i32 error:i16 message:s
81 RemoveRaftVoter
  > cluster_id:s voter_id:i32 voter_directory_id:u
  < throttle_time_ms:i32 error:i16 message:s
88 StreamsGroupHeartbeat
  > group:s member_id:s member_epoch:i32 endpoint_information_epoch:i32 instance_id:s rack_id:s
    rebalance_timeout:i32 topology?{epoch:i32 subtopologies[subtopology_id:s source_topics*[value:s]
    source_topic_regex*[value:s] state_changelog_topics[name:s partitions:i32 replication_factor:i16
    topic_configs[key:s value:s]] repartition_sink_topics*[value:s] repartition_source_topics[name:s partitions:i32
    replication_factor:i16 topic_configs[key:s value:s]] copartition_groups[source_topics*[value:i16]
    source_topic_regex*[value:i16] repartition_source_topics*[value:i16]]]} active_tasks[subtopology_id:s
    partitions*[index:i32]] standby_tasks[subtopology_id:s partitions*[index:i32]] warmup_tasks[subtopology_id:s
    partitions*[index:i32]] process_id:s user_endpoint?{host:s port:u16} client_tags[key:s value:s]
    task_offsets[subtopology_id:s index:i32 offset:i64] task_end_offsets[subtopology_id:s index:i32 offset:i64]
    shutdown_application:bool
  < throttle_time_ms:i32 error:i16 message:s=null member_id:s member_epoch:i32 heartbeat_interval:i32
    acceptable_recovery_lag:i32 task_offset_interval:i32 status[status_code:i8 status_detail:s]
    active_tasks[subtopology_id:s partitions*[index:i32]] standby_tasks[subtopology_id:s partitions*[index:i32]]
    warmup_tasks[subtopology_id:s partitions*[index:i32]] endpoint_information_epoch:i32
    partitions_by_user_endpoint[user_endpoint{host:s port:u16} active_partitions[topic:s partitions*[index:i32]]
    standby_partitions[topic:s partitions*[index:i32]]]
89 StreamsGroupDescribe
  > groups*[group:s] include_authorized_operations:bool
  < throttle_time_ms:i32 groups[error:i16 message:s=null group:s group_state:s group_epoch:i32 assignment_epoch:i32
    topology?{epoch:i32 subtopologies[subtopology_id:s source_topics*[value:s] repartition_sink_topics*[value:s]
    state_changelog_topics[name:s partitions:i32 replication_factor:i16 topic_configs[key:s value:s]]
    repartition_source_topics[name:s partitions:i32 replication_factor:i16 topic_configs[key:s value:s]]]}
    members[member_id:s member_epoch:i32 instance_id:s=null rack_id:s=null client_id:s client_host:s
    topology_epoch:i32 process_id:s user_endpoint?{host:s port:u16} client_tags[key:s value:s]
    task_offsets[subtopology_id:s index:i32 offset:i64] task_end_offsets[subtopology_id:s index:i32 offset:i64]
    assignment{active_tasks[subtopology_id:s partitions*[index:i32]] standby_tasks[subtopology_id:s
    partitions*[index:i32]] warmup_tasks[subtopology_id:s partitions*[index:i32]]}
    target_assignment{active_tasks[subtopology_id:s partitions*[index:i32]] standby_tasks[subtopology_id:s
    partitions*[index:i32]] warmup_tasks[subtopology_id:s partitions*[index:i32]]} is_classic:bool]
    authorized_operations:i32=-2147483648]
90 DescribeShareGroupOffsets
  > groups[group:s topics[name:s partitions*[index:i32]]]
  < throttle_time_ms:i32 groups[group:s topics[name:s id:u partitions[index:i32 start_offset:i64 leader_epoch:i32
    lag:i64@1+=-1 error:i16 message:s=null]] error:i16 message:s=null]
91 AlterShareGroupOffsets
  > group:s topics[name:s partitions[index:i32 start_offset:i64]]
  < throttle_time_ms:i32 error:i16 message:s=null topics[name:s id:u partitions[index:i32 error:i16 message:s=null]]
92 DeleteShareGroupOffsets
  > group:s topics[name:s]
  < throttle_time_ms:i32 error:i16 message:s=null topics[name:s id:u error:i16 message:s=null]
"""
