BEGIN TRANSACTION;
CREATE TABLE answers (question TEXT PRIMARY KEY, model TEXT NOT NULL, answer TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "answers" VALUES('1d33914629591f85149a3003144daae2506f400b8cb4064402363db739ffc654','ft:base-chat:org::ftjob-000003','[" blue", [-2.0731082195677386, -1.0612039927592065, -0.696820134712404]]');
INSERT INTO "answers" VALUES('2f55380ad7bf225507f48c4d1b6db25b3481a81482a21960088ce4e6b67863eb','ft:base-chat:org::ftjob-000003','[" red", [-0.5667854281737957, -1.121684698535911, -2.564948539955788]]');
INSERT INTO "answers" VALUES('54ae6630cfbc25642f7154bd206d7865a58994ec4ff80ac4543f843e9b9561a8','ft:base-chat:org::ftjob-000003','[" green", [-0.8446169713310774, -0.7274387248288601, -2.8623698282257832]]');
INSERT INTO "answers" VALUES('58b7ae5753a7a5b7fbe6f7a9459e6d9398ae00129a86f5239d4d24bee2088d3b','ft:base-chat:org::ftjob-000003','[" green", [-1.6108324671194163, -0.8022268987506795, -1.133361356919813]]');
INSERT INTO "answers" VALUES('ce96f332d2d85d10c68949be3eeeaa1247f210957d80a052ee58ea1a4f28c447','ft:base-chat:org::ftjob-000003','[" blue", [-1.1040635183542442, -1.334984397207895, -0.9799855608211786]]');
INSERT INTO "answers" VALUES('e61d182cf2d7b046588611721a770b0a92dd665b1e3ec4f9188408ce912f36d9','ft:base-chat:org::ftjob-000003','[" green", [-1.5414907702383869, -0.5820948079085646, -1.6234783254586307]]');
CREATE TABLE deployments (model TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    run TEXT NOT NULL, number INTEGER NOT NULL, event TEXT NOT NULL, PRIMARY KEY (run, number)
) WITHOUT ROWID;
INSERT INTO "events" VALUES('a4c3ed04a95a3da14a9d235c83d868be',0,'{"kind": "queued"}');
INSERT INTO "events" VALUES('a4c3ed04a95a3da14a9d235c83d868be',1,'{"kind": "started", "resolved": {"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 1.8, "steps_per_epoch": 3, "job": "ftjob-000003"}}');
INSERT INTO "events" VALUES('a4c3ed04a95a3da14a9d235c83d868be',2,'{"kind": "measured", "step": 1, "epoch": 0.3333333333333333, "values": {"batch_loss": 1.4359957222418867, "batch_token_accuracy": 0.5213347592527044, "batch_valid_loss": 1.5359957222418867}, "scope": "step"}');
INSERT INTO "events" VALUES('a4c3ed04a95a3da14a9d235c83d868be',3,'{"kind": "measured", "step": 2, "epoch": 0.6666666666666666, "values": {"batch_loss": 1.0365938868071924, "batch_token_accuracy": 0.6544687043976025, "batch_valid_loss": 1.1365938868071925}, "scope": "step"}');
INSERT INTO "events" VALUES('a4c3ed04a95a3da14a9d235c83d868be',4,'{"kind": "measured", "step": 3, "epoch": 1.0, "values": {"batch_loss": 0.7357935188127914, "batch_token_accuracy": 0.7547354937290696, "batch_valid_loss": 0.8357935188127914}, "scope": "step"}');
INSERT INTO "events" VALUES('a4c3ed04a95a3da14a9d235c83d868be',5,'{"kind": "measured", "step": 3, "epoch": 1.0, "values": {"valid_loss": 0.9357935188127915, "valid_token_accuracy": 0.6880688270624029, "valid_accuracy": 0.0, "valid_macro_f1": 0.0}, "scope": "evaluation"}');
INSERT INTO "events" VALUES('a4c3ed04a95a3da14a9d235c83d868be',6,'{"kind": "checkpointed", "step": 3, "epoch": 1.0, "model": "ft:base-chat:org::ftjob-000003:ckpt-step-3"}');
INSERT INTO "events" VALUES('a4c3ed04a95a3da14a9d235c83d868be',7,'{"kind": "charged", "usd": 0.0024, "tokens": 240, "estimated": false}');
INSERT INTO "events" VALUES('a4c3ed04a95a3da14a9d235c83d868be',8,'{"kind": "finished", "model": "ft:base-chat:org::ftjob-000003"}');
INSERT INTO "events" VALUES('c071cf5f5ed6f884cc70155b6f05f755',0,'{"kind": "queued"}');
INSERT INTO "events" VALUES('c071cf5f5ed6f884cc70155b6f05f755',1,'{"kind": "started", "resolved": {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.8, "steps_per_epoch": 3, "job": "ftjob-000004"}}');
INSERT INTO "events" VALUES('c071cf5f5ed6f884cc70155b6f05f755',2,'{"kind": "measured", "step": 1, "epoch": 0.3333333333333333, "values": {"batch_loss": 1.7919840558687592, "batch_token_accuracy": 0.40267198137708027, "batch_valid_loss": 1.8919840558687593}, "scope": "step"}');
INSERT INTO "events" VALUES('c071cf5f5ed6f884cc70155b6f05f755',3,'{"kind": "measured", "step": 2, "epoch": 0.6666666666666666, "values": {"batch_loss": 1.6070235307368417, "batch_token_accuracy": 0.46432548975438614, "batch_valid_loss": 1.7070235307368418}, "scope": "step"}');
INSERT INTO "events" VALUES('c071cf5f5ed6f884cc70155b6f05f755',4,'{"kind": "measured", "step": 3, "epoch": 1.0, "values": {"batch_loss": 1.4339648537420044, "batch_token_accuracy": 0.5220117154193318, "batch_valid_loss": 1.5339648537420045}, "scope": "step"}');
INSERT INTO "events" VALUES('c071cf5f5ed6f884cc70155b6f05f755',5,'{"kind": "measured", "step": 3, "epoch": 1.0, "values": {"valid_loss": 1.6339648537420044, "valid_token_accuracy": 0.45534504875266524}, "scope": "evaluation"}');
CREATE TABLE given_up (  -- jobs that failed for a limit before they trained: the run gets another one
    job TEXT PRIMARY KEY, run TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE gone (model TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE heard (   -- the host's own events, as they came
    run TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, event TEXT NOT NULL, PRIMARY KEY (run, id)
) WITHOUT ROWID;
INSERT INTO "heard" VALUES('a4c3ed04a95a3da14a9d235c83d868be','ftevent-ftjob-000003-00000',1700000000.0,'{"id": "ftevent-ftjob-000003-00000", "created_at": 1700000000.0, "level": "info", "message": "Created fine-tuning job: ftjob-000003", "data": {}}');
INSERT INTO "heard" VALUES('a4c3ed04a95a3da14a9d235c83d868be','ftevent-ftjob-000003-00001',1700000000.0,'{"id": "ftevent-ftjob-000003-00001", "created_at": 1700000001.0, "level": "info", "message": "Validating training file", "data": {}}');
INSERT INTO "heard" VALUES('a4c3ed04a95a3da14a9d235c83d868be','ftevent-ftjob-000003-00011',1700000010.0,'{"id": "ftevent-ftjob-000003-00011", "created_at": 1700000011.0, "level": "info", "message": "Step 1/3: training loss=1.44", "data": {"step": 1, "total_steps": 3, "train_loss": 1.4359957222418867, "train_mean_token_accuracy": 0.5213347592527044, "valid_loss": 1.5359957222418867}}');
INSERT INTO "heard" VALUES('a4c3ed04a95a3da14a9d235c83d868be','ftevent-ftjob-000003-00012',1700000010.0,'{"id": "ftevent-ftjob-000003-00012", "created_at": 1700000012.0, "level": "info", "message": "Step 2/3: training loss=1.04", "data": {"step": 2, "total_steps": 3, "train_loss": 1.0365938868071924, "train_mean_token_accuracy": 0.6544687043976025, "valid_loss": 1.1365938868071925}}');
INSERT INTO "heard" VALUES('a4c3ed04a95a3da14a9d235c83d868be','ftevent-ftjob-000003-00013',1700000010.0,'{"id": "ftevent-ftjob-000003-00013", "created_at": 1700000013.0, "level": "info", "message": "Step 3/3: training loss=0.74", "data": {"step": 3, "total_steps": 3, "train_loss": 0.7357935188127914, "train_mean_token_accuracy": 0.7547354937290696, "valid_loss": 0.8357935188127914, "full_valid_loss": 0.9357935188127915, "full_valid_mean_token_accuracy": 0.6880688270624029}}');
INSERT INTO "heard" VALUES('c071cf5f5ed6f884cc70155b6f05f755','ftevent-ftjob-000004-00000',1700000030.0,'{"id": "ftevent-ftjob-000004-00000", "created_at": 1700000030.0, "level": "info", "message": "Created fine-tuning job: ftjob-000004", "data": {}}');
INSERT INTO "heard" VALUES('c071cf5f5ed6f884cc70155b6f05f755','ftevent-ftjob-000004-00001',1700000030.0,'{"id": "ftevent-ftjob-000004-00001", "created_at": 1700000031.0, "level": "info", "message": "Validating training file", "data": {}}');
INSERT INTO "heard" VALUES('c071cf5f5ed6f884cc70155b6f05f755','ftevent-ftjob-000004-00011',1700000090.0,'{"id": "ftevent-ftjob-000004-00011", "created_at": 1700000041.0, "level": "info", "message": "Step 1/9: training loss=1.79", "data": {"step": 1, "total_steps": 9, "train_loss": 1.7919840558687592, "train_mean_token_accuracy": 0.40267198137708027, "valid_loss": 1.8919840558687593}}');
INSERT INTO "heard" VALUES('c071cf5f5ed6f884cc70155b6f05f755','ftevent-ftjob-000004-00012',1700000120.0,'{"id": "ftevent-ftjob-000004-00012", "created_at": 1700000042.0, "level": "info", "message": "Step 2/9: training loss=1.61", "data": {"step": 2, "total_steps": 9, "train_loss": 1.6070235307368417, "train_mean_token_accuracy": 0.46432548975438614, "valid_loss": 1.7070235307368418}}');
INSERT INTO "heard" VALUES('c071cf5f5ed6f884cc70155b6f05f755','ftevent-ftjob-000004-00013',1700000150.0,'{"id": "ftevent-ftjob-000004-00013", "created_at": 1700000043.0, "level": "info", "message": "Step 3/9: training loss=1.43", "data": {"step": 3, "total_steps": 9, "train_loss": 1.4339648537420044, "train_mean_token_accuracy": 0.5220117154193318, "valid_loss": 1.5339648537420045, "full_valid_loss": 1.6339648537420044, "full_valid_mean_token_accuracy": 0.45534504875266524}}');
INSERT INTO "heard" VALUES('c071cf5f5ed6f884cc70155b6f05f755','ftevent-ftjob-000004-00014',1700000180.0,'{"id": "ftevent-ftjob-000004-00014", "created_at": 1700000044.0, "level": "info", "message": "Step 4/9: training loss=1.28", "data": {"step": 4, "total_steps": 9, "train_loss": 1.2828057862371105, "train_mean_token_accuracy": 0.5723980712542964, "valid_loss": 1.3828057862371106}}');
INSERT INTO "heard" VALUES('c071cf5f5ed6f884cc70155b6f05f755','ftevent-ftjob-000004-00015',1700000180.0,'{"id": "ftevent-ftjob-000004-00015", "created_at": 1700000045.0, "level": "info", "message": "Step 5/9: training loss=1.15", "data": {"step": 5, "total_steps": 9, "train_loss": 1.1542676515497297, "train_mean_token_accuracy": 0.6152441161500901, "valid_loss": 1.2542676515497297}}');
INSERT INTO "heard" VALUES('c071cf5f5ed6f884cc70155b6f05f755','ftevent-ftjob-000004-00016',1700000180.0,'{"id": "ftevent-ftjob-000004-00016", "created_at": 1700000046.0, "level": "info", "message": "Step 6/9: training loss=1.03", "data": {"step": 6, "total_steps": 9, "train_loss": 1.028142102333636, "train_mean_token_accuracy": 0.657285965888788, "valid_loss": 1.128142102333636, "full_valid_loss": 1.2281421023336359, "full_valid_mean_token_accuracy": 0.5906192992221213}}');
CREATE TABLE limits (account TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
INSERT INTO "limits" VALUES('http://host/v1',1700000280.0);
CREATE TABLE models (  -- a model may serve several runs
    name TEXT NOT NULL, run TEXT NOT NULL, step INTEGER NOT NULL, PRIMARY KEY (name, run)
) WITHOUT ROWID;
INSERT INTO "models" VALUES('ft:base-chat:org::ftjob-000003','a4c3ed04a95a3da14a9d235c83d868be',4);
INSERT INTO "models" VALUES('ft:base-chat:org::ftjob-000003:ckpt-step-3','a4c3ed04a95a3da14a9d235c83d868be',3);
CREATE TABLE runs (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, request TEXT NOT NULL, submitted_at REAL NOT NULL,
    job TEXT,                        -- the host's name for it, once it is known
    created_at REAL,                 -- when the job was created or adopted
    attempted_at REAL,               -- when its creation was last tried, while nobody knows how that ended
    not_before REAL NOT NULL DEFAULT 0,  -- the host is left alone until then
    failures INTEGER NOT NULL DEFAULT 0, -- in a row
    failing_since REAL,
    stop INTEGER NOT NULL DEFAULT 0,     -- 1: asked for, 2: the host has taken it
    alive TEXT NOT NULL DEFAULT '',      -- the last sign of life, to notice when there is none
    alive_at REAL, ended_at REAL,        -- `ended_at`: when the host was first seen to have ended it
    discarded INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
INSERT INTO "runs" VALUES('a4c3ed04a95a3da14a9d235c83d868be','done','{"key": "done", "base_model": "base-chat", "dataset": {"train": {"path": "FOLDER/train.jsonl", "examples": 24, "sha256": "d87a3933c525c04d28fc93ca3eaea8a90e92c69e6c4b7553549d56ef101084af"}, "valid": {"path": "FOLDER/valid.jsonl", "examples": 6, "sha256": "a6d355c6a3b3caea059c135ee020667815ba236d25f7232c1fd768e7dd97c351"}, "layout": "completion", "labels": [" red", " green", " blue"], "stop": ""}, "hyperparameters": {"n_epochs": 1, "batch_size": 8}, "seed": 7, "evaluation": {"per_epoch": 1, "train_examples": 256, "keep_metric": "valid_loss", "keep_maximum": false}, "resume_from": null}',1700000000.0,'ftjob-000003',1700000000.0,NULL,0.0,0,NULL,0,'running 2 None',1700000005.0,1700000010.0,0);
INSERT INTO "runs" VALUES('c071cf5f5ed6f884cc70155b6f05f755','running','{"key": "running", "base_model": "base-chat", "dataset": {"train": {"path": "FOLDER/train.jsonl", "examples": 24, "sha256": "d87a3933c525c04d28fc93ca3eaea8a90e92c69e6c4b7553549d56ef101084af"}, "valid": {"path": "FOLDER/valid.jsonl", "examples": 6, "sha256": "a6d355c6a3b3caea059c135ee020667815ba236d25f7232c1fd768e7dd97c351"}, "layout": "completion", "labels": [" red", " green", " blue"], "stop": ""}, "hyperparameters": {"n_epochs": 3, "batch_size": 8}, "seed": 7, "evaluation": {"per_epoch": 1, "train_examples": 256, "keep_metric": "valid_loss", "keep_maximum": false}, "resume_from": null}',1700000030.0,'ftjob-000004',1700000030.0,NULL,0.0,0,NULL,0,'running 8 None',1700000180.0,NULL,0);
CREATE TABLE tokens (
    model TEXT NOT NULL, sha256 TEXT NOT NULL, per_epoch REAL NOT NULL, PRIMARY KEY (model, sha256)
) WITHOUT ROWID;
INSERT INTO "tokens" VALUES('base-chat','beec235b54b583627284d463ee79aa95d7a099d30734063113555d6fd0eb7053',240.0);
CREATE TABLE uploads (
    account TEXT NOT NULL, purpose TEXT NOT NULL, sha256 TEXT NOT NULL, file TEXT,
    PRIMARY KEY (account, purpose, sha256)
) WITHOUT ROWID;
INSERT INTO "uploads" VALUES('http://host/v1','fine-tune','7a4dae357f1eb7c72a4a2de67b6148cdbb35714374d17ccb263c93b777f0527b','file-000001');
INSERT INTO "uploads" VALUES('http://host/v1','fine-tune','8fa954bafeb7592bab3e9fdf974fa12ec5a21bdabbcdce448c97a85d4cf50548','file-000002');
CREATE TABLE waits (  -- what a run, or an account, waits for, for people
    who TEXT PRIMARY KEY, reason TEXT NOT NULL, until REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO "waits" VALUES('c071cf5f5ed6f884cc70155b6f05f755','a limit',1700000280.0);
COMMIT;
